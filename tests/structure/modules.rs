//! The module graph of `src/`: which file names what of which other file. Reads the sources with `syn`, follows
//! imports and re-exports to the file that defines a name, and finds circles. Tests and fuzz targets do not count, nor
//! does a `mod` declaration, nor a re-export for its own sake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// A module, as its names from the crate's root.
type ModulePath = Vec<String>;

/// Where names of one module come from.
#[derive(Default)]
struct Module {
    file: String,
    items: BTreeSet<String>,
    /// Name here, and the path it stands for.
    imports: BTreeMap<String, (ModulePath, Vec<String>)>,
    globs: Vec<(ModulePath, Vec<String>)>,
}

/// A name that is mentioned somewhere.
struct Mention {
    module: ModulePath,
    line: usize,
    path: Vec<String>,
}

/// Which file imports which, with the line of the first import.
#[derive(Clone, Default)]
pub struct Graph {
    edges: BTreeMap<String, BTreeMap<String, usize>>,
}

/// One import of a path through the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub from: String,
    pub line: usize,
    pub to: String,
}

/// The module that a file of `src/` is.
fn module_of(file: &str) -> ModulePath {
    let name = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(name, "lib" | "mod") { Vec::new() } else { name.split('/').map(str::to_owned).collect() }
}

/// The top-level module that a file belongs to.
pub fn top(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// Code that is compiled for tests or fuzzing only.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    fn words(tokens: TokenStream, found: &mut Vec<String>) {
        for token in tokens {
            match token {
                TokenTree::Ident(word) => found.push(word.to_string()),
                TokenTree::Group(group) => words(group.stream(), found),
                _ => {}
            }
        }
    }
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return attribute.path().is_ident("test") };
        let mut found = Vec::new();
        words(list.tokens.clone(), &mut found);
        let has = |word: &str| found.iter().any(|found| found == word);
        list.path.is_ident("cfg") && (has("test") || has("fuzzing")) && !has("not")
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Reads one file.
struct Reader {
    module: ModulePath,
    file: String,
    modules: BTreeMap<ModulePath, Module>,
    /// Modules that only tests have; files below them do not count.
    left_out: Vec<ModulePath>,
    mentions: Vec<Mention>,
}

impl Reader {
    fn here(&mut self) -> &mut Module {
        let file = self.file.clone();
        self.modules.entry(self.module.clone()).or_insert_with(|| Module { file, ..Module::default() })
    }

    fn mention(&mut self, line: usize, path: Vec<String>) {
        self.mentions.push(Mention { module: self.module.clone(), line, path });
    }

    fn import(&mut self, tree: &syn::UseTree, before: &mut Vec<String>, public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, public);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before, public)),
            syn::UseTree::Glob(_) => {
                let from = self.module.clone();
                self.here().globs.push((from, before.clone()));
            }
            syn::UseTree::Name(_) | syn::UseTree::Rename(_) => {
                let (name, alias) = match tree {
                    syn::UseTree::Rename(renamed) => (renamed.ident.to_string(), renamed.rename.to_string()),
                    syn::UseTree::Name(named) => (named.ident.to_string(), named.ident.to_string()),
                    _ => return,
                };
                let mut path = before.clone();
                if name != "self" {
                    path.push(name);
                }
                let alias = if alias == "self" { path.last().cloned().unwrap_or_default() } else { alias };
                let from = self.module.clone();
                self.here().imports.insert(alias, (from, path.clone()));
                if !public {
                    self.mention(tree.span().start().line, path);
                }
            }
        }
    }

    /// Paths inside a macro's arguments, which have no syntax of their own.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let punct = |at: usize, sign: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) if group.delimiter() != Delimiter::None || !group.stream().is_empty() => {
                    self.tokens(group.stream());
                }
                TokenTree::Ident(first) if at == 0 || !punct(at - 1, '.') => {
                    let (line, mut path) = (first.span().start().line, vec![first.to_string()]);
                    while punct(at + 1, ':') && punct(at + 2, ':') {
                        let Some(TokenTree::Ident(next)) = tokens.get(at + 3) else { break };
                        path.push(next.to_string());
                        at += 3;
                    }
                    self.mention(line, path);
                }
                _ => {}
            }
            at += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_test(attributes(item)) {
            if let syn::Item::Mod(module) = item {
                let mut path = self.module.clone();
                path.push(module.ident.to_string());
                self.left_out.push(path);
            }
            return;
        }
        if let Some(name) = name(item) {
            self.here().items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let Some((_, items)) = &item.content else { return };
        self.module.push(item.ident.to_string());
        self.here();
        items.iter().for_each(|item| self.visit_item(item));
        self.module.pop();
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes: &[syn::Attribute] = match item {
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Const(item) => &item.attrs,
            _ => &[],
        };
        if !is_test(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.import(&item.tree, &mut Vec::new(), public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.mention(path.span().start().line, names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone());
    }

    /// Paths in attributes are strings.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            for token in list.tokens.clone() {
                let line = token.span().start().line;
                let text = token.to_string();
                if text.starts_with("\"crate::") {
                    self.mention(line, text.trim_matches('"').split("::").map(str::to_owned).collect());
                }
            }
        }
    }
}

/// What a name stands for.
enum Found {
    Module(ModulePath),
    Item(String),
}

impl Graph {
    /// The graph of these files: names relative to `src/`, and texts.
    ///
    /// # Panics
    /// When a file is not Rust.
    pub fn read(files: &[(String, String)]) -> Self {
        let mut modules = BTreeMap::from([(ModulePath::new(), Module::default())]);
        let (mut mentions, mut left_out) = (Vec::new(), Vec::new());
        for (file, text) in files {
            let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let mut reader = Reader {
                module: module_of(file),
                file: file.clone(),
                modules: BTreeMap::new(),
                left_out: Vec::new(),
                mentions: Vec::new(),
            };
            reader.here();
            parsed.items.iter().for_each(|item| reader.visit_item(item));
            modules.append(&mut reader.modules);
            mentions.append(&mut reader.mentions);
            left_out.append(&mut reader.left_out);
        }
        let is_left_out = |path: &ModulePath| left_out.iter().any(|left_out| path.starts_with(left_out));
        let mut graph = Self::default();
        for mention in mentions.iter().filter(|mention| !is_left_out(&mention.module)) {
            let found = resolve(&modules, &mention.module, &mention.path, 0);
            if let (Some(Found::Item(to)), Some(from)) = (found, modules.get(&mention.module)) {
                graph.add(&from.file, mention.line, &to);
            }
        }
        graph
    }

    /// Adds an import that no source says.
    pub fn add(&mut self, from: &str, line: usize, to: &str) {
        if from != to {
            self.edges.entry(from.to_owned()).or_default().entry(to.to_owned()).or_insert(line);
        }
    }

    /// Every import.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        self.edges
            .iter()
            .flat_map(|(from, to)| to.iter().map(|(to, line)| Step { from: from.clone(), line: *line, to: to.clone() }))
    }

    /// Circles between files: the shortest of each strongly connected component.
    pub fn circles(&self) -> Vec<Vec<Step>> {
        circles(self.steps().map(|step| (step.from.clone(), step.to.clone(), step)).collect())
    }

    /// Circles between top-level modules.
    pub fn circles_of_modules(&self) -> Vec<Vec<Step>> {
        let steps = self.steps().map(|step| (top(&step.from).to_owned(), top(&step.to).to_owned(), step));
        circles(steps.filter(|(from, to, _)| from != to).collect())
    }
}

/// Follows a path from a module to what it stands for. None when that is not of this crate.
fn resolve(modules: &BTreeMap<ModulePath, Module>, from: &ModulePath, path: &[String], depth: usize) -> Option<Found> {
    let (first, rest) = path.split_first()?;
    let mut at = from.clone();
    let mut rest = rest;
    match first.as_str() {
        "crate" => at = Vec::new(),
        "self" => {}
        "super" => {
            at.pop()?;
            while let Some((next, more)) = rest.split_first().filter(|(next, _)| *next == "super") {
                debug_assert_eq!(next, "super");
                at.pop()?;
                rest = more;
            }
        }
        // A bare name means something only if the module says what.
        name => {
            let module = modules.get(from)?;
            let mut child = from.clone();
            child.push(name.to_owned());
            let is_known = modules.contains_key(&child)
                || module.items.contains(name)
                || module.imports.contains_key(name)
                || !module.globs.is_empty();
            if !is_known {
                return None;
            }
            return step(modules, from, path, depth, false);
        }
    }
    step(modules, &at, rest, depth, true)
}

/// Follows the remaining names from a module.
fn step(
    modules: &BTreeMap<ModulePath, Module>,
    at: &ModulePath,
    path: &[String],
    depth: usize,
    must_be_here: bool,
) -> Option<Found> {
    let module = modules.get(at)?;
    let Some((name, rest)) = path.split_first() else { return Some(Found::Module(at.clone())) };
    // Imports that alias each other: not Rust, but no reason to hang.
    if depth > 32 {
        return None;
    }
    let mut child = at.clone();
    child.push(name.clone());
    if modules.contains_key(&child) {
        return step(modules, &child, rest, depth + 1, true);
    }
    if module.items.contains(name) {
        return Some(Found::Item(module.file.clone()));
    }
    if let Some((from, target)) = module.imports.get(name) {
        return match resolve(modules, from, target, depth + 1)? {
            Found::Module(target) if !rest.is_empty() => step(modules, &target, rest, depth + 1, true),
            found => Some(found),
        };
    }
    for (from, target) in &module.globs {
        if let Some(Found::Module(target)) = resolve(modules, from, target, depth + 1)
            && let Some(found) = step(modules, &target, path, depth + 1, false)
        {
            return Some(found);
        }
    }
    // What a macro made.
    must_be_here.then(|| Found::Item(module.file.clone()))
}

/// The shortest circle of each strongly connected component of edges from, to.
fn circles(edges: Vec<(String, String, Step)>) -> Vec<Vec<Step>> {
    let mut out: BTreeMap<&str, BTreeMap<&str, &Step>> = BTreeMap::new();
    for (from, to, step) in &edges {
        out.entry(from).or_default().entry(to).or_insert(step);
    }
    // Who can be reached from each; a component is those that reach each other.
    let reach: BTreeMap<&str, BTreeSet<&str>> = out.keys().map(|from| (*from, reachable(&out, from))).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for (node, reached) in &reach {
        if !reached.contains(node) || seen.contains(node) {
            continue;
        }
        let component: Vec<&str> = reach
            .iter()
            .filter(|(other, back)| reached.contains(*other) && back.contains(node))
            .map(|(other, _)| *other)
            .collect();
        seen.extend(&component);
        let shortest = component.iter().filter_map(|node| way_back(&out, node)).min_by_key(Vec::len);
        found.extend(shortest);
    }
    found
}

fn reachable<'a>(out: &BTreeMap<&'a str, BTreeMap<&'a str, &'a Step>>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut queue = vec![from];
    while let Some(node) = queue.pop() {
        for next in out.get(node).into_iter().flat_map(|next| next.keys()) {
            if reached.insert(*next) {
                queue.push(next);
            }
        }
    }
    reached
}

/// The shortest way from a node back to itself.
fn way_back<'a>(out: &BTreeMap<&'a str, BTreeMap<&'a str, &'a Step>>, node: &'a str) -> Option<Vec<Step>> {
    let mut before: BTreeMap<&str, (&str, &Step)> = BTreeMap::new();
    let mut queue = VecDeque::from([node]);
    while let Some(at) = queue.pop_front() {
        for (next, step) in out.get(at).into_iter().flatten() {
            if *next == node {
                let mut way = vec![(*step).clone()];
                let mut back = at;
                while back != node {
                    let (previous, step) = before.get(back)?;
                    way.push((*step).clone());
                    back = previous;
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(next) {
                before.insert(next, (at, step));
                queue.push_back(next);
            }
        }
    }
    None
}

/// A circle as it is printed: each file, and the line of its import of the next.
pub fn told(circle: &[Step]) -> String {
    let mut text: String = circle.iter().map(|step| format!("{}:{} -> ", step.from, step.line)).collect();
    text.push_str(circle.first().map_or("", |step| &step.from));
    // Between modules, the next import does not begin in the file where the last one ended.
    for (step, next) in circle.iter().zip(circle.iter().cycle().skip(1)) {
        if step.to != next.from {
            text.push_str(&format!("\n    {}:{} imports {}", step.from, step.line, step.to));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        Graph::read(&files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_is_found_and_told_with_its_lines() {
        let graph = graph(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;"),
            ("a.rs", "use crate::b::B;\npub struct A(B);"),
            ("b.rs", "\npub struct B(super::c::C);"),
            ("c.rs", "use super::d::D;\n\npub enum C { D(D), A(crate::a::A) }"),
            ("d.rs", "pub struct D;"),
        ]);
        let circles = graph.circles();
        assert_eq!(circles.len(), 1);
        assert_eq!(told(&circles[0]), "a.rs:1 -> b.rs:2 -> c.rs:3 -> a.rs");
        assert_eq!(graph.circles_of_modules(), circles);
    }

    #[test]
    fn a_circle_through_a_door_is_found() {
        let graph = graph(&[
            ("a/mod.rs", "mod inner;\nmod outer;\npub use self::inner::Inner;\npub(crate) use outer::*;"),
            ("a/inner.rs", "pub struct Inner;"),
            ("a/outer.rs", "use crate::b as other;\npub fn outer() -> other::B { other::b() }"),
            ("b/mod.rs", "mod deep;\npub use deep::{B, b};"),
            ("b/deep.rs", "use crate::a;\npub struct B(a::Inner);\npub fn b() -> B { todo() }"),
        ]);
        assert!(graph.circles().is_empty(), "no file of them knows itself by way of another");
        let circles = graph.circles_of_modules();
        assert_eq!(circles.len(), 1);
        assert!(told(&circles[0]).starts_with("a/outer.rs:2 -> b/deep.rs:2 -> a/outer.rs"), "{}", told(&circles[0]));
    }

    #[test]
    fn paths_in_macros_count_and_tests_do_not() {
        let graph = graph(&[
            ("a.rs", "fn a() {\n    tokio::select! {\n        () = crate::b::b(1, (C::new())) => {}\n    }\n}"),
            ("b.rs", "pub fn b() {}\n#[cfg(test)]\nmod tests { use crate::a::a; }\n#[cfg(any(test, fuzzing))]\nmod f;"),
            ("b/f.rs", "use crate::a;\nfn f() { a::a() }"),
            ("c.rs", "mod inside { fn x() { super::super::b::b() } }"),
        ]);
        let steps: Vec<String> = graph.steps().map(|step| format!("{}:{} {}", step.from, step.line, step.to)).collect();
        assert_eq!(steps, ["a.rs:3 b.rs", "c.rs:1 b.rs"]);
    }

    #[test]
    fn a_parent_may_declare_and_re_export_its_children() {
        let graph = graph(&[
            ("a/mod.rs", "mod child;\npub use self::child::Child;\npub struct Parent;"),
            ("a/child.rs", "use super::Parent;\npub struct Child(Parent);"),
        ]);
        assert!(graph.circles().is_empty());
    }
}

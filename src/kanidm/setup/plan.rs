//! The steps that lead from what is there to what is wanted.

use super::found::Found;
use super::step::Step;
use super::wanted::{RIGHTS, SCOPES, Wanted};

impl Wanted {
    /// The steps that lead from what was found to what is wanted, in their order.
    pub fn steps(&self, found: &Found) -> Vec<Step> {
        let mut steps = Vec::new();
        let account = found.account.as_ref();
        if account.is_none() {
            steps.push(Step::MakeAccount);
        }
        let lacks = |right: &&str| account.is_none_or(|account| !account.groups.iter().any(|group| group == right));
        steps.extend(RIGHTS.into_iter().filter(lacks).map(Step::Grant));
        let client = found.client.as_ref();
        if client.is_none() {
            steps.push(Step::MakeClient { landing: self.landing.clone() });
        }
        let has_redirect = |url: &String| client.is_some_and(|client| client.redirects.contains(url));
        steps.extend(self.redirects.iter().filter(|url| !has_redirect(url)).cloned().map(Step::AddRedirect));
        let mapped = client.and_then(|client| client.scopes.get(&self.names.persons));
        if !mapped.is_some_and(|scopes| SCOPES.iter().all(|scope| scopes.contains(*scope))) {
            steps.push(Step::MapScopes);
        }
        // Both are right in a client that was just made.
        if client.is_some_and(|client| client.works_without_pkce) {
            steps.push(Step::RequirePkce);
        }
        if client.is_some_and(|client| client.signs_with_rsa) {
            steps.push(Step::SignWithEcdsa);
        }
        if client.is_none_or(|client| client.asks_consent) {
            steps.push(Step::SkipConsent);
        }
        steps
    }

    /// Everything that is done on a Kanidm where nothing is there.
    pub fn all_steps(&self) -> Vec<Step> {
        self.steps(&Found::default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::found::{Account, Client};
    use super::super::wanted::MANAGER;
    use super::*;

    fn wanted() -> Wanted {
        let names = crate::kanidm::Names {
            account: "sidle_service".into(),
            client: "sidle".into(),
            persons: "idm_all_persons".into(),
        };
        Wanted { names, landing: "https://a.example/".into(), redirects: vec!["https://a.example/cb".into()] }
    }

    fn complete() -> Found {
        let account = Account {
            uuid: uuid::Uuid::nil(),
            managers: vec![MANAGER.to_owned()],
            groups: RIGHTS.map(str::to_owned).to_vec(),
            tokens: Vec::new(),
            has_credential: false,
            is_limited: false,
        };
        let scopes: BTreeSet<String> = SCOPES.map(str::to_owned).into();
        let client = Client {
            is_basic: true,
            landing: "https://a.example/".to_owned(),
            redirects: vec!["https://a.example/cb".to_owned()],
            scopes: BTreeMap::from([("idm_all_persons".to_owned(), scopes)]),
            more_scopes: Vec::new(),
            claims: Vec::new(),
            works_without_pkce: false,
            signs_with_rsa: false,
            asks_consent: false,
        };
        Found { account: Some(account), client: Some(client), ..Found::default() }
    }

    #[test]
    fn what_is_there_takes_no_step_and_is_no_difference() {
        assert_eq!(wanted().steps(&complete()), Vec::new());
        assert_eq!(complete().differences(&wanted(), None), Vec::new());
        assert_eq!(wanted().all_steps().len(), 8);
    }

    #[test]
    fn each_thing_that_is_missing_takes_its_step() {
        let steps = |change: fn(&mut Account, &mut Client)| {
            let mut found = complete();
            change(found.account.as_mut().unwrap(), found.client.as_mut().unwrap());
            wanted().steps(&found)
        };
        for (at, right) in RIGHTS.into_iter().enumerate() {
            let mut found = complete();
            found.account.as_mut().unwrap().groups.remove(at);
            assert_eq!(wanted().steps(&found), vec![Step::Grant(right)]);
        }
        assert_eq!(steps(|_, client| client.redirects.clear()), vec![Step::AddRedirect("https://a.example/cb".into())]);
        assert_eq!(steps(|_, client| client.scopes.clear()), vec![Step::MapScopes]);
        assert_eq!(steps(|_, client| client.works_without_pkce = true), vec![Step::RequirePkce]);
        assert_eq!(steps(|_, client| client.signs_with_rsa = true), vec![Step::SignWithEcdsa]);
        assert_eq!(steps(|_, client| client.asks_consent = true), vec![Step::SkipConsent]);
    }

    #[test]
    fn each_thing_that_is_more_is_a_difference() {
        let differs = |change: fn(&mut Account, &mut Client)| {
            let mut found = complete();
            change(found.account.as_mut().unwrap(), found.client.as_mut().unwrap());
            found.differences(&wanted(), None).len()
        };
        let token = || crate::kanidm::ApiToken::read(&crate::config::Secret::from(token_text())).unwrap();
        assert_eq!(differs(|account, _| account.managers = vec!["mallory".to_owned()]), 1);
        assert_eq!(differs(|account, _| account.managers.clear()), 1);
        assert_eq!(differs(|account, _| account.groups.push("idm_people_admins".to_owned())), 1);
        assert_eq!(differs(|account, _| account.has_credential = true), 1);
        assert_eq!(differs(|account, _| account.is_limited = true), 1);
        assert_eq!(differs(|_, client| client.is_basic = false), 1);
        assert_eq!(differs(|_, client| client.redirects.push("https://mallory.example/".to_owned())), 1);
        assert_eq!(differs(|_, client| client.landing = "https://mallory.example/".to_owned()), 1);
        assert_eq!(differs(|_, client| drop(client.scopes.insert("others".to_owned(), BTreeSet::new()))), 1);
        assert_eq!(differs(|_, client| client.more_scopes.push("others".to_owned())), 1);
        assert_eq!(differs(|_, client| client.claims.push("groups".to_owned())), 1);
        // A token on an account that has all rights changes nothing; on one that would get them, its holder would.
        let mut found = complete();
        found.account.as_mut().unwrap().tokens.push(token());
        assert_eq!(found.differences(&wanted(), None), Vec::new());
        found.account.as_mut().unwrap().groups.pop();
        assert_eq!(found.differences(&wanted(), None).len(), 1);
        assert_eq!(found.differences(&wanted(), Some(&token())), Vec::new(), "ours");
        let taken = Found { account_taken_by: Some("a person"), client_taken_by: Some("a group"), ..Found::default() };
        assert_eq!(taken.differences(&wanted(), None).len(), 2);
        assert!(taken.differences(&wanted(), None).iter().all(|difference| difference.is_final));
    }

    fn token_text() -> String {
        use base64::Engine as _;
        let payload = r#"{"account_id":"93736a52-678a-4b91-b8e6-fe3fd8dd0584",
            "token_id":"212aaa5e-8997-44b9-9fb6-6f0b79b10b72","label":"sidle","purpose":"readwrite"}"#;
        format!("e30.{}.x", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn commands_are_safe_to_paste_whatever_an_address_holds() {
        let step = Step::AddRedirect("https://a.example/cb?x='$(reboot)'".to_owned());
        let command = step.command(&wanted().names);
        assert!(command.ends_with(r"'https://a.example/cb?x='\''$(reboot)'\''' -D idm_admin"), "{command}");
    }
}

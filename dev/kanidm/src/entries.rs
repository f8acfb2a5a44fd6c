//! Persons, service accounts, groups and OAuth2 clients, one entry at a time.

use axum::extract::{Path, State};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use kanidm_proto::internal::{CreateRequest, Modify as ProtoModify, ModifyList as ProtoModifyList};
use kanidm_proto::v1::{ApiTokenGenerate, Entry as ProtoEntry};
use kanidmd_lib::event::SearchResult;
use kanidmd_lib::filter_all;
use kanidmd_lib::idm::serviceaccount::{DestroyApiTokenEvent, GenerateApiTokenEvent, ListApiTokenEvent};
use kanidmd_lib::prelude::*;

use crate::App;
use crate::auth::Caller;
use crate::engine::Fallible;
use crate::error::ApiError;

/// The classes behind one family of paths.
#[derive(Clone)]
pub struct Kind {
    /// Entries seen here have this class.
    class: EntryClass,
    /// Attributes are changed on entries of this class (wider for the accounts, as in Kanidm).
    attributes_of: EntryClass,
    /// Entries created here get these classes.
    created_as: &'static [EntryClass],
}

const PERSON: Kind = Kind {
    class: EntryClass::Person,
    attributes_of: EntryClass::Account,
    created_as: &[EntryClass::Person, EntryClass::Account, EntryClass::Object],
};
const SERVICE_ACCOUNT: Kind = Kind {
    class: EntryClass::ServiceAccount,
    attributes_of: EntryClass::Account,
    created_as: &[EntryClass::ServiceAccount, EntryClass::Account, EntryClass::Object],
};
const GROUP: Kind = Kind {
    class: EntryClass::Group,
    attributes_of: EntryClass::Group,
    created_as: &[EntryClass::Group, EntryClass::Object],
};
pub const OAUTH2_BASIC: Kind = Kind {
    class: EntryClass::OAuth2ResourceServer,
    attributes_of: EntryClass::OAuth2ResourceServer,
    created_as: &[
        EntryClass::OAuth2ResourceServer,
        EntryClass::OAuth2ResourceServerBasic,
        EntryClass::Account,
        EntryClass::Object,
    ],
};

pub fn routes() -> Router<App> {
    let mut router = Router::new();
    for (path, kind) in [("/v1/person", PERSON), ("/v1/service_account", SERVICE_ACCOUNT), ("/v1/group", GROUP)] {
        router = router
            .route(path, list(kind.clone()).merge(create(kind.clone())))
            .route(&format!("{path}/{{id}}"), one(kind.clone()))
            .route(&format!("{path}/{{id}}/_attr/{{attr}}"), attribute(kind.clone()).merge(added_and_removed(kind)));
    }
    router
        .route("/v1/service_account/{id}/_api_token", get(api_tokens).post(issue_api_token))
        .route("/v1/service_account/{id}/_api_token/{token}", axum::routing::delete(destroy_api_token))
}

pub fn list(kind: Kind) -> MethodRouter<App> {
    get(async move |State(app): State<App>, Caller(caller): Caller| -> Result<_, ApiError> {
        Ok(Json(search(&app, caller, of_class(kind.class), None).await?))
    })
}

pub fn create(kind: Kind) -> MethodRouter<App> {
    post(
        async move |State(app): State<App>,
                    Caller(caller): Caller,
                    Json(mut entry): Json<ProtoEntry>|
                    -> Result<_, ApiError> {
            let classes = kind.created_as.iter().map(ToString::to_string).collect();
            entry.attrs.insert(Attribute::Class.to_string(), classes);
            Ok(Json(create_all(&app, caller, vec![entry]).await?))
        },
    )
}

/// Reading, changing and deleting one entry.
pub fn one(kind: Kind) -> MethodRouter<App> {
    let (read, patched, deleted) = (kind.class, kind.attributes_of, kind.class);
    get(async move |State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>| -> Result<_, ApiError> {
        let mut found = search(&app, caller, target(read, &id), None).await?;
        Ok(Json(found.pop()))
    })
    .patch(
        async move |State(app): State<App>,
                    Caller(caller): Caller,
                    Path(id): Path<String>,
                    Json(update): Json<ProtoEntry>|
                    -> Result<_, ApiError> {
            let target = target(patched, &id);
            let write = app.engine.write(caller, |ident, txn, _| {
                let changes = ModifyList::from_patch(&update, &mut txn.qs_write)?;
                let event = ModifyEvent::from_internal_parts(ident, &changes, &target, &txn.qs_write)?;
                txn.qs_write.modify(&event)
            });
            Ok(Json(write.await?))
        },
    )
    .delete(
        async move |State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>| -> Result<_, ApiError> {
            let target = target(deleted, &id);
            let write = app.engine.write(caller, |ident, txn, _| {
                let event = DeleteEvent::from_parts(ident, &target, &mut txn.qs_write)?;
                txn.qs_write.delete(&event)
            });
            Ok(Json(write.await?))
        },
    )
}

type AttributePath = Path<(String, String)>;

/// Reading and replacing the values of one attribute.
fn attribute(kind: Kind) -> MethodRouter<App> {
    let class = kind.attributes_of;
    get(
        async move |State(app): State<App>,
                    Caller(caller): Caller,
                    Path((id, attr)): AttributePath|
                    -> Result<_, ApiError> {
            let wanted = Some(vec![attr.clone()]);
            let mut found = search(&app, caller, target(class, &id), wanted).await?;
            let values = found.pop().and_then(|mut entry| entry.attrs.remove(&attr));
            Ok(Json(values))
        },
    )
    .put(
        async move |State(app): State<App>,
                    Caller(caller): Caller,
                    Path((id, attr)): AttributePath,
                    Json(values): Json<Vec<String>>| {
            let purge = std::iter::once(ProtoModify::Purged(attr.clone()));
            let mods = purge.chain(present(&attr, values)).collect();
            change(&app, caller, class, &id, mods).await
        },
    )
}

/// Adding to and removing from the values of one attribute. Without values to remove, all go;
/// for accounts all go in any case, as in Kanidm.
pub fn added_and_removed(kind: Kind) -> MethodRouter<App> {
    let class = kind.attributes_of;
    post(
        async move |State(app): State<App>,
                    Caller(caller): Caller,
                    Path((id, attr)): AttributePath,
                    Json(values): Json<Vec<String>>| {
            let mods = present(&attr, values).collect();
            change(&app, caller, class, &id, mods).await
        },
    )
    .delete(
        async move |State(app): State<App>,
                    Caller(caller): Caller,
                    Path((id, attr)): AttributePath,
                    values: Option<Json<Vec<String>>>| {
            let values = values.map(|Json(values)| values).unwrap_or_default();
            let mods = if values.is_empty() || matches!(class, EntryClass::Account) {
                vec![ProtoModify::Purged(attr)]
            } else {
                let remove = |value| ProtoModify::Removed(attr.clone(), value);
                values.into_iter().map(remove).collect()
            };
            change(&app, caller, class, &id, mods).await
        },
    )
}

fn present(attr: &str, values: Vec<String>) -> impl Iterator<Item = ProtoModify> {
    values.into_iter().map(move |value| ProtoModify::Present(attr.to_string(), value))
}

async fn change(
    app: &App,
    caller: ClientAuthInfo,
    class: EntryClass,
    id: &str,
    mods: Vec<ProtoModify>,
) -> Result<Json<()>, ApiError> {
    let changes = ProtoModifyList { mods };
    let write = app.engine.write(caller, |ident, txn, _| {
        let target = txn.qs_write.name_to_uuid(id)?;
        let filter = of_class(class);
        let event = ModifyEvent::from_parts(ident, target, &changes, filter, &mut txn.qs_write)?;
        txn.qs_write.modify(&event)
    });
    Ok(Json(write.await?))
}

pub async fn search(
    app: &App,
    caller: ClientAuthInfo,
    filter: Filter<FilterInvalid>,
    attrs: Option<Vec<String>>,
) -> Fallible<Vec<ProtoEntry>> {
    let read = app.engine.read(caller, |ident, txn| {
        let qs = &mut txn.qs_read;
        let event = SearchEvent::from_internal_message(ident, &filter, attrs.as_deref(), qs)?;
        let found = qs.search_ext(&event)?;
        SearchResult::new(qs, &found).map(SearchResult::into_proto_array)
    });
    read.await
}

/// All or none of them, in one transaction.
pub async fn create_all(app: &App, caller: ClientAuthInfo, entries: Vec<ProtoEntry>) -> Fallible<()> {
    let request = CreateRequest { entries };
    let write = app.engine.write(caller, |ident, txn, _| {
        let event = CreateEvent::from_message(ident, &request, &mut txn.qs_write)?;
        txn.qs_write.create(&event).map(drop)
    });
    write.await
}

fn of_class(class: EntryClass) -> Filter<FilterInvalid> {
    filter_all!(f_eq(Attribute::Class, class.into()))
}

/// By name, spn or uuid; an OAuth2 client is known by its name only.
pub fn target(class: EntryClass, id: &str) -> Filter<FilterInvalid> {
    let this = match class {
        EntryClass::OAuth2ResourceServer => {
            filter_all!(f_eq(Attribute::Name, PartialValue::new_iname(id)))
        }
        _ => filter_all!(f_id(id)),
    };
    Filter::join_parts_and(of_class(class), this)
}

async fn api_tokens(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<kanidm_proto::internal::ApiToken>>, ApiError> {
    let read = app.engine.read(caller, |ident, txn| {
        let target = txn.qs_read.name_to_uuid(&id)?;
        txn.service_account_list_api_token(&ListApiTokenEvent { ident, target })
    });
    Ok(Json(read.await?))
}

async fn issue_api_token(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(wanted): Json<ApiTokenGenerate>,
) -> Result<Json<String>, ApiError> {
    let write = app.engine.write(caller, |ident, txn, now| {
        let target = txn.qs_write.name_to_uuid(&id)?;
        let event = GenerateApiTokenEvent {
            ident,
            target,
            label: wanted.label,
            expiry: wanted.expiry,
            read_write: wanted.read_write,
        };
        txn.service_account_generate_api_token(&event, now)
    });
    Ok(Json(write.await?.to_string()))
}

async fn destroy_api_token(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((id, token_id)): Path<(String, Uuid)>,
) -> Result<Json<()>, ApiError> {
    let write = app.engine.write(caller, |ident, txn, _| {
        let target = txn.qs_write.name_to_uuid(&id)?;
        txn.service_account_destroy_api_token(&DestroyApiTokenEvent { ident, target, token_id })
    });
    Ok(Json(write.await?))
}

//! Many entries at a time by filter, and the recycle bin.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use kanidm_proto::internal::{CreateRequest, DeleteRequest, ModifyRequest, SearchRequest, SearchResponse};
use kanidm_proto::v1::Entry as ProtoEntry;
use kanidmd_lib::event::{ReviveRecycledEvent, SearchResult};
use kanidmd_lib::filter_all;
use kanidmd_lib::prelude::*;

use crate::App;
use crate::auth::Caller;
use crate::engine::Fallible;
use crate::entries::create_all;
use crate::error::ApiError;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/raw/create", post(create))
        .route("/v1/raw/search", post(search))
        .route("/v1/raw/modify", post(modify))
        .route("/v1/raw/delete", post(delete))
        .route("/v1/recycle_bin", get(recycle_bin))
        .route("/v1/recycle_bin/{id}", get(recycled))
        .route("/v1/recycle_bin/{id}/_revive", post(revive))
}

async fn create(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(request): Json<CreateRequest>,
) -> Result<Json<()>, ApiError> {
    Ok(Json(create_all(&app, caller, request.entries).await?))
}

async fn search(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(request): Json<SearchRequest>,
) -> Result<Json<SearchResponse>, ApiError> {
    let read = app.engine.read(caller, |ident, txn| {
        let event = SearchEvent::from_message(ident, &request, &mut txn.qs_read)?;
        let found = txn.qs_read.search_ext(&event)?;
        SearchResult::new(&mut txn.qs_read, &found).map(SearchResult::response)
    });
    Ok(Json(read.await?))
}

async fn modify(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(request): Json<ModifyRequest>,
) -> Result<Json<()>, ApiError> {
    let write = app.engine.write(caller, |ident, txn, _| {
        let event = ModifyEvent::from_message(ident, &request, &mut txn.qs_write)?;
        txn.qs_write.modify(&event)
    });
    Ok(Json(write.await?))
}

async fn delete(
    State(app): State<App>,
    Caller(caller): Caller,
    Json(request): Json<DeleteRequest>,
) -> Result<Json<()>, ApiError> {
    let write = app.engine.write(caller, |ident, txn, _| {
        let event = DeleteEvent::from_message(ident, &request, &mut txn.qs_write)?;
        txn.qs_write.delete(&event)
    });
    Ok(Json(write.await?))
}

async fn recycle_bin(State(app): State<App>, Caller(caller): Caller) -> Result<Json<Vec<ProtoEntry>>, ApiError> {
    let everything = filter_all!(f_pres(Attribute::Class));
    Ok(Json(search_recycled(&app, caller, everything).await?))
}

async fn recycled(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<Option<ProtoEntry>>, ApiError> {
    let one = filter_all!(f_id(&id));
    Ok(Json(search_recycled(&app, caller, one).await?.pop()))
}

async fn search_recycled(
    app: &App,
    caller: ClientAuthInfo,
    filter: Filter<FilterInvalid>,
) -> Fallible<Vec<ProtoEntry>> {
    let read = app.engine.read(caller, |ident, txn| {
        let event = SearchEvent::from_internal_recycle_message(ident, &filter, None, &txn.qs_read)?;
        let found = txn.qs_read.search_ext(&event)?;
        SearchResult::new(&mut txn.qs_read, &found).map(SearchResult::into_proto_array)
    });
    read.await
}

async fn revive(State(app): State<App>, Caller(caller): Caller, Path(id): Path<String>) -> Result<Json<()>, ApiError> {
    let target = filter_all!(f_id(&id));
    let write = app.engine.write(caller, |ident, txn, _| {
        let event = ReviveRecycledEvent::from_parts(ident, &target, &txn.qs_write)?;
        txn.qs_write.revive_recycled(&event)
    });
    Ok(Json(write.await?))
}

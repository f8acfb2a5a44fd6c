//! The schema's own types. The driver asks the server about a type that it meets for the first time, between parsing a
//! statement and executing it. Where statements have no name that question destroys what was parsed, so a connection without
//! named statements learns the types before its first statement.

use std::sync::{Mutex, PoisonError};

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments as _, AssertSqlSafe, Encode, PgConnection, Postgres, Row as _, Type};

/// Composite types and enums, but not the row types of tables.
const OWN: &str = "SELECT t.typname::text FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace = 'public'::regnamespace AND (t.typtype = 'e' OR c.relkind = 'c') ORDER BY 1";

/// Names of types that the driver has been told of; it wants them for good. There is one for each type of the schema.
static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// No value of a type that is known by its name. What is sent as an argument is asked about before the statement is parsed.
struct Nothing(&'static str);

impl Type<Postgres> for Nothing {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("unknown")
    }
}

impl Encode<'_, Postgres> for Nothing {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_name(self.0))
    }
}

/// Has the driver learn the types of the schema on this connection.
pub(super) async fn learn(connection: &mut PgConnection) -> sqlx::Result<()> {
    // In a transaction, so that a pooler keeps to one session between the two halves of a statement.
    let rows = sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {OWN}"))).fetch_all(&mut *connection).await?;
    let mut arguments = PgArguments::default();
    for row in &rows {
        arguments.add(Nothing(lasting(row.try_get(0)?))).map_err(sqlx::Error::Encode)?;
    }
    if !rows.is_empty() {
        let list: Vec<String> = (1..=rows.len()).map(|number| format!("${number} IS NULL")).collect();
        let sql = AssertSqlSafe(format!("SELECT {}", list.join(" AND ")));
        sqlx::query_with(sql, arguments).persistent(false).execute(&mut *connection).await?;
    }
    sqlx::raw_sql(AssertSqlSafe("COMMIT".to_owned())).execute(connection).await?;
    Ok(())
}

fn lasting(name: String) -> &'static str {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let name: &'static str = Box::leak(name.into_boxed_str());
    names.push(name);
    name
}

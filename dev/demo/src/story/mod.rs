//! The demonstration, step by step.

mod audit;
mod compare;
mod import;
mod login;
mod migrate;
mod people;
mod stage;
mod summary;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use sidle::proto::step_up_request::Proof;
use sidle::proto::{StepUpRequest, User};
use sidle_dev::kanidm::{Access, Kanidm};
use sidle_dev::variable;
use tonic::Request;

use crate::Result;
use crate::check::Checks;
use crate::client::{Client, refused};
use crate::expected::Expected;
use crate::output;
use crate::servers::{Ready, Servers};

/// Its result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    AsExpected,
    Different,
}

/// What the steps share once all programs run.
struct Demo<'a> {
    samples: PathBuf,
    expected: Expected,
    checks: Checks,
    kanidm: &'a Kanidm,
    access: Access,
    ready: Ready,
    /// Clients of the first administrator.
    admin: Client,
    admin_token: String,
    admin_password: String,
    /// Anonymous clients.
    anonymous: Client,
    /// Ids of the sample's tenants by slug.
    tenants: BTreeMap<String, String>,
    /// The imported users by their id.
    imported: BTreeMap<String, User>,
}

impl Demo<'_> {
    /// A message with a fresh step-up token of the first administrator, for one call of this RPC, whose request is a
    /// stream.
    async fn proven<T>(&mut self, method: &str, message: T) -> Result<Request<T>> {
        let proof = Some(Proof::Password(self.admin_password.clone()));
        let request = StepUpRequest { method: method.to_owned(), proof, ..Default::default() };
        let answer = self.admin.authenticate.step_up(request).await.map_err(refused("StepUp"))?;
        let mut request = Request::new(message);
        request.metadata_mut().insert("sidle-step-up", answer.into_inner().step_up_token.parse()?);
        Ok(request)
    }
}

/// Runs all steps; unless it runs `once`, with calls to make afterwards. Differences from the expected results are part
/// of it; only what cannot continue is an error.
pub async fn tell(servers: &mut Servers, once: bool) -> Result<Ending> {
    let started = Instant::now();
    let samples = PathBuf::from(variable("SIDLE_DEMO_SAMPLES")?);
    let expected = Expected::read(&samples)?;
    output::line(output::bold("Sidle: from the old password table to Kanidm, with both doors open"));

    let mut sidle = crate::servers::Sidle::new()?;
    let access = stage::kanidm(servers, &expected).await?;
    let (ready, admin_token, admin_password) = stage::service(servers, &mut sidle, &access).await?;
    let mut demo = Demo {
        samples,
        expected,
        checks: Checks::default(),
        kanidm: servers.kanidm()?,
        access,
        admin: Client::new(&ready.channel, Some(&admin_token))?,
        admin_token,
        admin_password,
        anonymous: Client::new(&ready.channel, None)?,
        ready,
        tenants: BTreeMap::new(),
        imported: BTreeMap::new(),
    };
    stage::tenants(&mut demo).await?;
    import::files(&mut demo).await?;
    people::imported(&mut demo).await?;
    login::with_password(&mut demo).await?;
    let plan = migrate::plan(&mut demo).await?;
    let migrated = migrate::run(&mut demo, &plan).await?;
    let hero_token = login::through_kanidm(&mut demo, &migrated).await?;
    audit::tail(&mut demo, &migrated).await?;
    compare::with_kanidm(&mut demo, &migrated).await?;
    summary::show(&demo, &migrated);
    if !once {
        summary::calls(&demo, &migrated, &hero_token);
    }
    output::line(format!("\nThe story took {:.1} s.", started.elapsed().as_secs_f64()));
    Ok(if demo.checks.all_right() { Ending::AsExpected } else { Ending::Different })
}

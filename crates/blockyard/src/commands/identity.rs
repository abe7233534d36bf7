//! `blockyard identity`.

use crate::commands::Session;
use anyhow::Result;
use clap::Args;

/// Print the fingerprint by which other daemons know this one
#[derive(Debug, Args)]
pub(crate) struct Flags {}

pub(crate) fn run(session: &Session) -> Result<()> {
    let identity = session.client()?.identity()?;
    session.output.print(&identity, || format!("{}\n", identity.fingerprint))
}

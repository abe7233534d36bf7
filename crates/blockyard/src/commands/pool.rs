//! `blockyard pool status`.

use crate::commands::Session;
use crate::output::table::Table;
use crate::size::human;
use anyhow::Result;
use blockyard_api::PoolStatus;
use clap::Subcommand;

/// Ask about the pool
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how full the pool is and what is being done
    Status,
}

pub(crate) fn run(command: &Command, session: &Session) -> Result<()> {
    match command {
        Command::Status => {
            let status = session.client()?.pool_status()?;
            session.output.print(&status, || table(&status))
        }
    }
}

fn table(status: &PoolStatus) -> String {
    let mut rows = Table::pairs();
    rows.pair("pool", &status.path);
    rows.pair("id", &status.id);
    rows.pair("hash", &status.hash);
    rows.pair("images", status.images);
    rows.pair("capacity", human(status.bytes_capacity));
    rows.pair("logical", human(status.bytes_logical));
    rows.pair("physical", human(status.bytes_physical));
    let not_known = match status.clusters_untrusted {
        0 => "not known yet",
        _ => "not known while clusters are untrusted",
    };
    rows.pair("unique", status.bytes_unique.map_or(not_known.to_owned(), human));
    let reclaimable = status.bytes_reclaimable.map(|bytes| match status.reclaimable_is_exact {
        true => human(bytes),
        false => format!("{} when last counted", human(bytes)),
    });
    rows.pair("reclaimable", reclaimable.unwrap_or_else(|| not_known.to_owned()));
    rows.pair("on disk", human(status.bytes_on_disk));
    rows.pair("clusters untrusted", status.clusters_untrusted);
    let closed = if status.opened_clean { "in order" } else { "not in order, recovered" };
    rows.pair("last closed", closed);
    if let Some(reason) = &status.failed {
        rows.pair("FAILED, reads only", reason);
    }
    for activity in &status.activities {
        rows.pair("doing", activity);
    }
    let daemon = &status.daemon;
    rows.pair(
        "daemon",
        format!("{} (pid {}, up {} s)", daemon.version, daemon.pid, daemon.uptime_s),
    );
    rows.pair("I/O", &daemon.io);
    rows.pair("NBD socket", &daemon.nbd_socket);
    rows.pair("API socket", &daemon.api_socket);
    rows.to_string()
}

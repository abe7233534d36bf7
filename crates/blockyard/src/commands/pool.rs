//! `blockyard pool status`.

use crate::commands::Session;
use crate::output::table::Table;
use crate::output::time::rough;
use crate::size::human;
use anyhow::Result;
use blockyard_api::PoolStatus;
use clap::Subcommand;
use std::time::SystemTime;

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
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now_unix_s = now.map_or(0, |since| since.as_secs());
            session.output.print(&status, || table(&status, now_unix_s))
        }
    }
}

fn table(status: &PoolStatus, now_unix_s: u64) -> String {
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
        false => {
            format!("{} when last counted{}", human(bytes), age(status.counted_unix_s, now_unix_s))
        }
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

/// `, 3 min ago`
fn age(since_unix_s: Option<u64>, now_unix_s: u64) -> String {
    let Some(since_unix_s) = since_unix_s else { return String::new() };
    format!(", {} ago", rough(now_unix_s.saturating_sub(since_unix_s)))
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn a_count_tells_its_age() {
        assert_eq!(age(Some(1_000), 1_012), ", 12 s ago");
        assert_eq!(age(Some(1_000), 1_200), ", 3 min ago");
        assert_eq!(age(Some(1_000), 900), ", 0 s ago", "a clock that was set back");
        assert_eq!(age(None, 900), "");
    }
}

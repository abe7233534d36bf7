//! From the engine's values to the API's.

use crate::daemon::{Daemon, lazy, usage};
use blockyard_api as api;
use blockyard_block::{CLUSTER_SIZE, Result};
use blockyard_pool as pool;
use nix::unistd::{Uid, User};

pub(super) fn image(info: pool::ImageInfo) -> api::Image {
    api::Image {
        name: info.name.to_string(),
        id: info.id.0,
        kind: match info.kind {
            pool::ImageKind::Writable => api::ImageKind::Writable,
            pool::ImageKind::Snapshot => api::ImageKind::Snapshot,
        },
        size_bytes: info.size_bytes,
        bytes_mapped: info.bytes_mapped,
        bytes_shared: None,
        bytes_exclusive: None,
        created_unix_s: info.created_unix_s,
        clients: info.clients.into_iter().map(client).collect(),
        lazy: None,
        dependants: Vec::new(),
    }
}

/// The same with what it has to do with peers.
pub(super) fn image_of(daemon: &Daemon, info: pool::ImageInfo) -> api::Image {
    let id = info.id;
    let lazy = daemon.pool.lazy_image(id).map(|told| lazy::describe(daemon, &told));
    api::Image { lazy, dependants: daemon.dependants.of_image(id), ..image(info) }
}

/// May ask a directory service for the user's name.
fn client(client: pool::Client) -> api::ImageClient {
    let user = client.uid.and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
    api::ImageClient {
        connection: client.connection,
        pid: client.pid,
        uid: client.uid,
        user: user.map(|user| user.name),
        access: if client.writes { api::ImageAccess::Write } else { api::ImageAccess::Read },
        purpose: client.purpose,
    }
}

/// A hash belongs to one cluster: runs found without asking for hashes have none.
pub(super) fn map_run(run: &pool::MapRun, hashes: bool) -> api::MapRun {
    let (state, hash) = match run.state {
        pool::MapState::Zero => (api::MapState::Zero, None),
        pool::MapState::Reserved => (api::MapState::Reserved, None),
        pool::MapState::Data(hash) => (api::MapState::Data, hashes.then(|| hash.to_string())),
        pool::MapState::Untrusted => (api::MapState::Untrusted, None),
    };
    api::MapRun { offset: run.offset, length: run.length, state, hash }
}

pub(super) fn diff_run(run: &pool::DiffRun) -> api::DiffRun {
    let state = match run.state {
        pool::DiffState::Differs => api::DiffState::Differs,
        pool::DiffState::Unknown => api::DiffState::Unknown,
    };
    api::DiffRun { offset: run.offset, length: run.length, state }
}

pub(super) fn scrub(scrub: pool::Scrub) -> api::ScrubReport {
    api::ScrubReport {
        clusters_checked: scrub.clusters_done,
        clusters_skipped_untrusted: scrub.clusters_skipped_untrusted,
        clusters_damaged: scrub.clusters_damaged,
        damage: scrub.damage.into_iter().map(damage).collect(),
        healed: scrub.healed.into_iter().map(damage).collect(),
        hashes_restored: scrub.hashes_restored,
        hashes_made: scrub.hashes_made,
        hashes_lost: scrub.hashes_lost,
    }
}

pub(super) fn reclaim(
    account: &pool::Reclaim,
    options: &pool::ReclaimOptions,
) -> api::ReclaimReport {
    let bytes = |clusters: u64| clusters * CLUSTER_SIZE as u64;
    api::ReclaimReport {
        dry_run: options.dry_run,
        target_bytes: options.target_bytes,
        bytes_scanned: bytes(account.scanned),
        bytes_untrusted: bytes(account.untrusted),
        bytes_equal: bytes(account.equal),
        bytes_freed: bytes(account.freed),
        bytes_differed: bytes(account.differed),
        bytes_busy: bytes(account.busy),
        bytes_unreadable: bytes(account.unreadable),
    }
}

fn damage(damage: pool::Damage) -> api::Damage {
    let place = |(image, offset): (blockyard_block::ImageName, u64)| api::DamagePlace {
        image: image.to_string(),
        offset,
    };
    api::Damage { places: damage.places.into_iter().map(place).collect(), message: damage.message }
}

/// Looks at the pool's files, and at its hashes if they are not too many.
pub(super) fn pool_status(daemon: &Daemon) -> Result<api::PoolStatus> {
    let status = daemon.pool.status()?;
    let counted = daemon.usage.contents(&daemon.pool, status.bytes_physical)?;
    let contents = counted.map(|counted| counted.contents);
    let bytes = |clusters: u64| clusters * CLUSTER_SIZE as u64;
    let mut activities = status.activities;
    activities.extend(daemon.jobs.activities());
    Ok(api::PoolStatus {
        id: status.id.to_string(),
        path: daemon.plan.pool.display().to_string(),
        hash: status.hash.name().to_owned(),
        format_version: status.format_version,
        images: status.images,
        bytes_logical: status.bytes_logical,
        bytes_physical: status.bytes_physical,
        bytes_unique: contents.map(|contents| bytes(contents.distinct)),
        bytes_reclaimable: contents.map(|contents| bytes(contents.clusters - contents.distinct)),
        reclaimable_is_exact: contents.is_some() && contents == daemon.pool.counted_contents(),
        counted_unix_s: counted.map(|counted| counted.unix_s),
        bytes_capacity: status.bytes_capacity,
        bytes_on_disk: usage::bytes_on_disk(&daemon.plan.pool)?,
        clusters_untrusted: status.clusters_untrusted,
        regions_with_intent: status.regions_with_intent,
        failed: status.failed,
        activities,
        opened_clean: status.opened_clean,
        daemon: daemon_status(daemon),
    })
}

fn daemon_status(daemon: &Daemon) -> api::DaemonStatus {
    api::DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: daemon.started.elapsed().as_secs(),
        nbd_socket: daemon.plan.nbd_socket.display().to_string(),
        api_socket: daemon.plan.api_socket.display().to_string(),
        io: match daemon.plan.io {
            crate::config::IoMode::Direct => "direct",
            crate::config::IoMode::Buffered => "buffered",
        }
        .to_owned(),
    }
}

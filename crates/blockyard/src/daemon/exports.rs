//! The pool's images as NBD exports, and what the NBD server has to say, as log lines.

use crate::daemon::engine::HostPool;
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::HostDirectory;
use blockyard_nbd::{ClientInfo, Counts, EndReason, Event, ExportSummary, Exports};
use blockyard_pool::{Client, ImageKind, Volume};
use std::sync::Arc;

/// Every image of one pool, by name. The empty name is the only image, if there is only one.
pub(crate) struct Images {
    pool: Arc<HostPool>,
}

impl Images {
    pub(crate) fn new(pool: Arc<HostPool>) -> Images {
        Images { pool }
    }

    fn name(&self, name: &str) -> Result<ImageName> {
        if !name.is_empty() {
            return ImageName::parse(name);
        }
        let mut images = self.pool.images();
        match (images.pop(), images.is_empty()) {
            (Some(only), true) => Ok(only.name),
            _ => Err(Error::new(ErrorKind::NotFound, "name the image to open")),
        }
    }
}

impl Exports for Images {
    type Device = Volume<HostDirectory>;

    fn list(&self, _client: &ClientInfo) -> Vec<ExportSummary> {
        let images = self.pool.images().into_iter();
        images
            .map(|image| ExportSummary {
                name: image.name.to_string(),
                size: image.size_bytes,
                read_only: image.kind == ImageKind::Snapshot,
                description: String::new(),
            })
            .collect()
    }

    fn open(&self, name: &str, client: &ClientInfo) -> Result<Arc<Self::Device>> {
        let name = self.name(name)?;
        let client = Client {
            connection: client.connection.0,
            pid: client.pid,
            uid: client.uid,
            writes: self.pool.image(&name)?.kind == ImageKind::Writable,
            purpose: "nbd".to_owned(),
        };
        self.pool.open_image(&name, client).map(Arc::new)
    }
}

/// One line per connect and disconnect; failed requests as warnings.
pub(crate) fn log_event(event: Event<'_>) {
    match event {
        Event::Connected { client } => {
            tracing::debug!(
                connection = client.connection.0,
                pid = client.pid,
                "NBD client arrived"
            );
        }
        Event::Opened { client, name, size, read_only } => {
            let (connection, pid, uid) = (client.connection.0, client.pid, client.uid);
            tracing::info!(
                connection,
                pid,
                uid,
                image = name,
                size,
                read_only,
                "NBD client connected"
            );
        }
        Event::Disconnected { client, name, reason, counts } => {
            disconnected(client, name, reason, &counts);
        }
        Event::Rejected { client, reason } => {
            tracing::warn!(pid = client.pid, uid = client.uid, reason, "NBD client turned away");
        }
        Event::RequestFailed { client, name, error } => {
            let connection = client.connection.0;
            tracing::warn!(connection, image = name, %error, "NBD request failed");
        }
        Event::NoRing { error } => tracing::warn!(
            %error,
            "io_uring is not to be had: clients are served by more threads, which costs more CPU"
        ),
        Event::AcceptFailed { error } => tracing::error!(%error, "cannot accept NBD clients"),
    }
}

fn disconnected(client: &ClientInfo, name: Option<&str>, reason: &EndReason, counts: &Counts) {
    let (connection, pid) = (client.connection.0, client.pid);
    match name {
        Some(image) => tracing::info!(
            connection,
            pid,
            image,
            ?reason,
            reads = counts.reads,
            bytes_read = counts.bytes_read,
            writes = counts.writes,
            bytes_written = counts.bytes_written,
            flushes = counts.flushes,
            trims = counts.trims,
            failures = counts.failures,
            "NBD client disconnected"
        ),
        None => tracing::debug!(connection, pid, ?reason, "NBD client left without an image"),
    }
}

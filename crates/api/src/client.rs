//! A blocking client of the control API over a unix socket.
//!
//! One connection, made when first needed and made again when the daemon closed it. Answers are
//! bounded. Errors of the daemon come back with the kind they had there; no daemon is `ShutDown`.

mod connection;
mod pipe;

use crate::types::*;
use blockyard_block::{Error, Result};
use connection::{Connection, download};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

pub use connection::Upload;
pub use pipe::Pipe;

/// Speaks to one daemon.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects when first used.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Client> {
        Ok(Client { connection: Connection::new(socket.into())? })
    }

    /// The socket it speaks through.
    pub fn socket(&self) -> &Path {
        self.connection.socket()
    }

    pub fn pool_status(&mut self) -> Result<PoolStatus> {
        self.get("/v1/pool")
    }

    /// All images and what they share most with.
    pub fn image_tree(&mut self) -> Result<ImageTree> {
        self.get("/v1/tree")
    }

    pub fn images(&mut self) -> Result<ImageList> {
        self.get("/v1/images")
    }

    pub fn image(&mut self, name: &str) -> Result<Image> {
        self.get(&image_path(name, ""))
    }

    pub fn create_image(&mut self, request: &CreateImage) -> Result<Image> {
        self.post("/v1/images", request)
    }

    pub fn rename_image(&mut self, name: &str, request: &RenameImage) -> Result<Image> {
        self.post(&image_path(name, "/rename"), request)
    }

    pub fn resize_image(&mut self, name: &str, request: &ResizeImage) -> Result<Image> {
        self.post(&image_path(name, "/resize"), request)
    }

    pub fn snapshot_image(&mut self, name: &str, request: &SnapshotImage) -> Result<Image> {
        self.post(&image_path(name, "/snapshot"), request)
    }

    pub fn clone_image(&mut self, name: &str, request: &CloneImage) -> Result<Image> {
        self.post(&image_path(name, "/clone"), request)
    }

    pub fn remove_image(&mut self, name: &str, force: bool) -> Result<()> {
        let path = format!("{}?force={force}", image_path(name, ""));
        self.connection.request("DELETE", &path, None).map(drop)
    }

    pub fn image_digest(&mut self, name: &str) -> Result<ImageDigest> {
        self.get(&image_path(name, "/digest"))
    }

    /// One page of the map from `offset` on.
    pub fn image_map(&mut self, name: &str, offset: u64, hashes: bool) -> Result<ImageMap> {
        self.get(&format!("{}?offset={offset}&hashes={hashes}", image_path(name, "/map")))
    }

    /// One page of how two images differ, from `offset` on.
    pub fn image_diff(&mut self, name: &str, other: &str, offset: u64) -> Result<ImageDiff> {
        self.get(&format!("{}/diff/{other}?offset={offset}", image_path(name, "")))
    }

    /// Starts the import of a file on the daemon's host.
    pub fn import_file(&mut self, name: &str, request: &ImportFile) -> Result<Job> {
        self.post(&image_path(name, "/import"), request)
    }

    /// Starts the export to a file on the daemon's host.
    pub fn export_file(&mut self, name: &str, request: &ExportFile) -> Result<Job> {
        self.post(&image_path(name, "/export"), request)
    }

    /// Streams raw bytes into a new image; it appears, whole, when the upload is finished.
    pub fn upload_image(&self, name: &str) -> Result<Upload> {
        Upload::start(self.socket(), &image_path(name, "/content"))
    }

    /// Writes the raw bytes of an image to `target` as they come, zeros too.
    pub fn download_image(&self, name: &str, target: &mut dyn std::io::Write) -> Result<()> {
        download(self.socket(), &image_path(name, "/content"), target)
    }

    /// Starts comparing all data with its hashes. `rehash` makes hashes that are lost of the data as it is.
    pub fn scrub(&mut self, rehash: bool) -> Result<Job> {
        let path = if rehash { "/v1/pool/scrub?rehash=true" } else { "/v1/pool/scrub" };
        self.connection.request("POST", path, None).and_then(decode)
    }

    /// Starts turning equal clusters into free space.
    pub fn reclaim(&mut self, request: &ReclaimSpace) -> Result<Job> {
        self.post("/v1/pool/reclaim", request)
    }

    pub fn identity(&mut self) -> Result<DaemonIdentity> {
        self.get("/v1/identity")
    }

    pub fn peers(&mut self) -> Result<PeerList> {
        self.get("/v1/peers")
    }

    pub fn add_peer(&mut self, peer: &Peer) -> Result<Peer> {
        self.post("/v1/peers", peer)
    }

    pub fn remove_peer(&mut self, name: &str) -> Result<()> {
        let path = escaped("/v1/peers/", name, "");
        self.connection.request("DELETE", &path, None).map(drop)
    }

    /// Starts sending an image to a peer, or a quote.
    pub fn push_image(&mut self, name: &str, request: &PushImage) -> Result<Job> {
        self.post(&image_path(name, "/push"), request)
    }

    /// Brings the rest of an image that is used before it is there.
    pub fn fill_image(&mut self, name: &str) -> Result<Image> {
        self.post(&image_path(name, "/fill"), &())
    }

    /// Removes what is kept for an image of a peer.
    pub fn remove_dependant(&mut self, name: &str, id: &str) -> Result<()> {
        let path = escaped(&image_path(name, "/dependants/"), id, "");
        self.connection.request("DELETE", &path, None).map(drop)
    }

    /// Where the image is read first; with an order, begins, ends or forgets the record of it.
    pub fn image_profile(
        &mut self,
        name: &str,
        order: Option<ProfileOrder>,
    ) -> Result<ImageProfile> {
        let path = image_path(name, "/profile");
        match order {
            None => self.get(&path),
            Some(order) => self.post(&path, &OrderProfile { order }),
        }
    }

    /// Starts making the image `name` of one that a peer has, or a quote.
    pub fn pull_image(&mut self, name: &str, request: &PullImage) -> Result<Job> {
        self.post(&image_path(name, "/pull"), request)
    }

    /// Opens a pipe through which the daemon pushes or pulls.
    pub fn call_through_pipe(&self, request: &CallThroughPipe) -> Result<Pipe> {
        let body = serde_json::to_vec(request).map_err(|error| unreadable(&error))?;
        pipe::open(self.socket(), "/v1/pipes/call", body)
    }

    /// Opens a pipe through which the daemon answers.
    pub fn answer_pipe(&self, request: &AnswerPipe) -> Result<Pipe> {
        let body = serde_json::to_vec(request).map_err(|error| unreadable(&error))?;
        pipe::open(self.socket(), "/v1/pipes/answer", body)
    }

    pub fn jobs(&mut self) -> Result<JobList> {
        self.get("/v1/jobs")
    }

    /// The job's state now, or as soon as it has ended within `wait_ms`.
    pub fn job(&mut self, id: u64, wait_ms: u64) -> Result<Job> {
        self.get(&format!("/v1/jobs/{id}?wait_ms={wait_ms}"))
    }

    /// Asks the job to stop; it has stopped when its state says so.
    pub fn cancel_job(&mut self, id: u64) -> Result<Job> {
        self.connection.request("DELETE", &format!("/v1/jobs/{id}"), None).and_then(decode)
    }

    fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.connection.request("GET", path, None).and_then(decode)
    }

    fn post<T: DeserializeOwned>(&mut self, path: &str, request: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(request).map_err(|error| unreadable(&error))?;
        self.connection.request("POST", path, Some(body)).and_then(decode)
    }
}

/// Names are sent as they are if they can be names at all; others are percent-encoded, so that the
/// daemon's answer says what is wrong with them.
fn image_path(name: &str, rest: &str) -> String {
    escaped("/v1/images/", name, rest)
}

fn escaped(folder: &str, name: &str, rest: &str) -> String {
    let mut path = folder.to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path + rest
}

fn decode<T: DeserializeOwned>(body: Vec<u8>) -> Result<T> {
    serde_json::from_slice(&body).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Error {
    Error::new(
        blockyard_block::ErrorKind::Unsupported,
        format!("the daemon's answer is not understood ({error}); are both of the same version?"),
    )
}

#[cfg(test)]
mod tests;

//! Whole contents, in and out: import and export as jobs, and the upload of raw bytes.

use super::answer::{Body, Failure, InPath};
use super::images::find;
use super::{Shared, blocking, image_name};
use crate::daemon::Daemon;
use crate::daemon::jobs::JobHandle;
use crate::transfer_file::{export, import};
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Json, Response};
use blockyard_api::{
    ErrorBody, ExportFile, ExportReport, Image, ImportFile, ImportReport, Job, JobKind, JobReport,
    ProgressUnit, UnreadableRun,
};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Parts of an upload that wait to be stored.
const UPLOAD_PARTS: usize = 8;
/// How long the rest of a refused upload is read and dropped.
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// Parts of a download that wait to be sent, each of up to a chunk.
const DOWNLOAD_PARTS: usize = 4;

/// Brings an image file of this host into the pool, as a job. Cut off, it leaves nothing.
#[utoipa::path(post, path = "/v1/images/{name}/import", params(("name" = String, Path)),
    request_body = ImportFile,
    responses((status = 202, body = Job), (status = "4XX", body = ErrorBody)))]
pub(super) async fn import(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<ImportFile>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let name = image_name(&name)?;
    check_path(&request.path)?;
    let start = move |daemon: &Arc<Daemon>| {
        refuse_taken(daemon, &name)?;
        let (target, title) = (Arc::clone(daemon), name.to_string());
        let work = move |job: &JobHandle| run_import(&target, &name, &request, job);
        daemon.jobs.start(JobKind::Import, Some(&title), ProgressUnit::Bytes, work)
    };
    Ok((StatusCode::ACCEPTED, Json(blocking(daemon, start).await?)))
}

fn run_import(
    daemon: &Daemon,
    name: &ImageName,
    request: &ImportFile,
    job: &JobHandle,
) -> Result<JobReport> {
    let imported = import::import_file(&daemon.pool, name, request, &daemon.plan.pool, job)?;
    Ok(JobReport::Import(ImportReport {
        image: find(daemon, name)?,
        format: imported.format,
        bytes_stored: imported.bytes_stored,
    }))
}

/// Writes an image to a file of this host, as a job. Cut off, it leaves nothing.
#[utoipa::path(post, path = "/v1/images/{name}/export", params(("name" = String, Path)),
    request_body = ExportFile,
    responses((status = 202, body = Job), (status = "4XX", body = ErrorBody)))]
pub(super) async fn export(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<ExportFile>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let name = image_name(&name)?;
    check_path(&request.path)?;
    let start = move |daemon: &Arc<Daemon>| {
        daemon.pool.image(&name)?;
        let (source, title) = (Arc::clone(daemon), name.to_string());
        let work = move |job: &JobHandle| run_export(&source, &name, &request, job);
        daemon.jobs.start(JobKind::Export, Some(&title), ProgressUnit::Bytes, work)
    };
    Ok((StatusCode::ACCEPTED, Json(blocking(daemon, start).await?)))
}

fn run_export(
    daemon: &Daemon,
    name: &ImageName,
    request: &ExportFile,
    job: &JobHandle,
) -> Result<JobReport> {
    let exported = export::export_file(&daemon.pool, name, request, job)?;
    Ok(JobReport::Export(ExportReport {
        path: request.path.clone(),
        format: request.format,
        size_bytes: exported.size_bytes,
        bytes_written: exported.bytes_written,
        bytes_unreadable: exported.bytes_unreadable,
        unreadable: exported.unreadable.iter().map(told).collect(),
    }))
}

fn told(run: &crate::transfer_file::export::UnreadableRun) -> UnreadableRun {
    UnreadableRun { offset: run.offset, length: run.length }
}

/// Makes an image of the raw bytes in the body, of whatever length; the size is rounded up to 512.
/// The image appears when the body has come to its proper end; cut off, it leaves nothing.
#[utoipa::path(put, path = "/v1/images/{name}/content", params(("name" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Image), (status = "4XX", body = ErrorBody)))]
pub(super) async fn upload(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    body: HttpBody,
) -> Result<(StatusCode, Json<Image>), Failure> {
    let name = image_name(&name)?;
    let (parts, mut received) = Received::channel();
    let stored = blocking(daemon, move |daemon| {
        refuse_taken(daemon, &name)?;
        import::import_stream(&daemon.pool, &name, &mut received, &daemon.plan.pool)?;
        find(daemon, &name)
    });
    let (image, ()) = tokio::join!(stored, feed(body, parts));
    Ok((StatusCode::CREATED, Json(image?)))
}

/// The raw bytes of an image, zeros too. A connection that ends before they are whole has failed.
#[utoipa::path(get, path = "/v1/images/{name}/content", params(("name" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "4XX", body = ErrorBody)))]
pub(super) async fn download(
    State(daemon): Shared,
    InPath(name): InPath<String>,
) -> Result<Response, Failure> {
    let name = image_name(&name)?;
    let size = daemon.pool.image(&name)?.size_bytes;
    let (parts, body) = Channel::<Bytes, io::Error>::new(DOWNLOAD_PARTS);
    let mut sent = Sent { runtime: Handle::current(), parts };
    // Ends by itself: when all is sent, or when nobody takes it any more.
    tokio::task::spawn_blocking(move || {
        if let Err(error) = export::export_stream(&daemon.pool, &name, &mut sent) {
            sent.parts.abort(io::Error::other(error));
        }
    });
    let headers =
        [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, size.to_string())];
    Ok((headers, HttpBody::new(body)).into_response())
}

/// A body as the reading thread writes it.
struct Sent {
    runtime: Handle,
    parts: Sender<Bytes, io::Error>,
}

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = Bytes::copy_from_slice(bytes);
        let sent = self.runtime.block_on(self.parts.send_data(part));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A piece of a body on its way to the thread that stores it.
enum Part {
    Bytes(Bytes),
    End,
    Broken(String),
}

/// Passes the body on, until it ends or the storing thread gives up.
async fn feed(mut body: HttpBody, parts: mpsc::Sender<Part>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = parts.closed() => return discard_for_a_while(body),
        };
        let part = match frame {
            None => Part::End,
            Some(Err(error)) => Part::Broken(error.to_string()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Part::Bytes(bytes),
                Err(_trailers) => continue,
            },
        };
        let last = !matches!(part, Part::Bytes(_));
        // A thread that gave up is noticed at the next turn.
        let _ = parts.send(part).await;
        if last {
            return;
        }
    }
}

/// A sender that is cut off while it sends never reads why: it gets some time to.
fn discard_for_a_while(mut body: HttpBody) {
    let discard = async move { while let Some(Ok(_)) = body.frame().await {} };
    tokio::spawn(tokio::time::timeout(DISCARD_TIME, discard));
}

/// The body as the storing thread reads it. A sender that vanishes without having sent `End` is an
/// error, so that half an upload is never taken for a whole one.
struct Received {
    parts: mpsc::Receiver<Part>,
    current: Bytes,
    ended: bool,
}

impl Received {
    fn channel() -> (mpsc::Sender<Part>, Received) {
        let (sender, parts) = mpsc::channel(UPLOAD_PARTS);
        (sender, Received { parts, current: Bytes::new(), ended: false })
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.parts.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.current = bytes,
                Some(Part::End) => self.ended = true,
                Some(Part::Broken(reason)) => return Err(io::Error::other(reason)),
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Early, so that nobody sends an image for nothing. What decides is the end of the import.
fn refuse_taken(daemon: &Daemon, name: &ImageName) -> Result<()> {
    match daemon.pool.image(name) {
        Ok(_) => Err(Error::new(ErrorKind::Exists, format!("an image is called {name} already"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The daemon's working directory is none of the client's business.
fn check_path(path: &str) -> Result<(), Failure> {
    if Path::new(path).is_absolute() && !path.contains('\0') {
        return Ok(());
    }
    Err(Failure(Error::new(ErrorKind::InvalidArgument, format!("{path:?} is no absolute path"))))
}

#[cfg(test)]
mod tests;

//! Serves one file over NBD, to measure the server without an engine below it.
//!
//! `nbd-file --socket PATH --file PATH [--direct] [--io-threads N]`, export name `disk`. Prints `ready` and
//! serves until killed. With `--direct` the file is opened with O_DIRECT. Requests must be whole
//! clusters of 4 KiB. With `--io-threads 0` each connection has threads of its own, and no ring.

use blockyard_block::{
    AllocationRun, AllocationState, BlockDevice, Buffer, BufferMut, Error, ErrorKind, Result,
    Segment, ZeroOptions,
};
use blockyard_io::{Disk, HostDisk, HostOptions};
use blockyard_nbd::{ClientInfo, Event, ExportSummary, Exports, Limits, Server};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

struct PlainFile {
    disk: HostDisk,
    size: u64,
}

fn failed(error: std::io::Error) -> Error {
    Error::io("the file", error)
}

impl BlockDevice for PlainFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<Segment>> {
        let (result, buffer) =
            self.disk.read(offset, BufferMut::to_be_filled(length as usize)).await;
        result.map_err(failed)?;
        Ok(vec![Segment::Data(buffer.freeze())])
    }

    async fn write(&self, offset: u64, data: Buffer, fua: bool) -> Result<()> {
        self.disk.write(offset, data).await.map_err(failed)?;
        if fua { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        self.disk.sync().await.map_err(failed)
    }

    async fn discard(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        self.write_zeroes(offset, length, ZeroOptions { keep_place: false, fua }).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64, options: ZeroOptions) -> Result<()> {
        let zeroes = BufferMut::zeroed(length.min(1 << 20) as usize).freeze();
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(zeroes.len() as u64);
            self.disk.write(at, zeroes.slice(0..part as usize)).await.map_err(failed)?;
            at += part;
        }
        if options.fua { self.flush().await } else { Ok(()) }
    }

    async fn allocation(&self, _: u64, length: u64, _: usize) -> Result<Vec<AllocationRun>> {
        Ok(vec![AllocationRun { length, state: AllocationState::Data }])
    }
}

struct OneFile(Arc<PlainFile>);

impl Exports for OneFile {
    type Device = PlainFile;

    fn list(&self, _: &ClientInfo) -> Vec<ExportSummary> {
        Vec::new()
    }

    fn open(&self, name: &str, _: &ClientInfo) -> Result<Arc<PlainFile>> {
        match name {
            "disk" => Ok(Arc::clone(&self.0)),
            _ => Err(Error::new(ErrorKind::NotFound, name)),
        }
    }
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let socket = argument("--socket").ok_or("--socket PATH is missing")?;
    let path = argument("--file").ok_or("--file PATH is missing")?;
    let direct = std::env::args().any(|argument| argument == "--direct");
    let options = HostOptions { direct, ..HostOptions::default() };
    let disk = HostDisk::open(&path, &options)?;
    if disk.is_direct() != direct {
        return Err("the file system refuses O_DIRECT".into());
    }
    let size = std::fs::metadata(&path)?.len();
    let exports = OneFile(Arc::new(PlainFile { disk, size }));
    let mut limits = Limits::default();
    if let Some(count) = argument("--io-threads") {
        limits.io_threads = count.parse()?;
    }
    let listener = UnixListener::bind(socket)?;
    let _server = Server::start(listener, Arc::new(exports), limits, |event| {
        if let Event::NoRing { error } = event {
            eprintln!("threads instead of rings: {error}");
        }
    })?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

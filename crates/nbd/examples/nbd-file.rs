//! Serves one file over NBD, to measure the server without an engine below it.
//!
//! `nbd-file --socket PATH --file PATH [--direct]`, export name `disk`. Prints `ready` and serves until
//! killed. With `--direct` the file is opened with O_DIRECT, and requests must be whole sectors.

use blockyard_block::{
    AllocationRun, AllocationState, BlockDevice, Buffer, BufferMut, Error, ErrorKind, Result,
    Segment, ZeroOptions,
};
use blockyard_nbd::{ClientInfo, ExportSummary, Exports, Limits, Server};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

struct PlainFile {
    file: File,
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
        let mut buffer = BufferMut::zeroed(length as usize);
        self.file.read_exact_at(&mut buffer, offset).map_err(failed)?;
        Ok(vec![Segment::Data(buffer.freeze())])
    }

    async fn write(&self, offset: u64, data: Buffer, fua: bool) -> Result<()> {
        self.file.write_all_at(&data, offset).map_err(failed)?;
        if fua { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(failed)
    }

    async fn discard(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        self.write_zeroes(offset, length, ZeroOptions { keep_place: false, fua }).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64, options: ZeroOptions) -> Result<()> {
        let zeroes = BufferMut::zeroed(length.min(1 << 20) as usize).freeze();
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..part as usize], at).map_err(failed)?;
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
    let flags = if direct { rustix::fs::OFlags::DIRECT.bits() as i32 } else { 0 };
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let size = file.metadata()?.len();
    let exports = OneFile(Arc::new(PlainFile { file, size }));
    let listener = UnixListener::bind(socket)?;
    let _server = Server::start(listener, Arc::new(exports), Limits::default(), |_| {})?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

//! The least NBD server that libnbd's programs need: fixed newstyle, simple replies, one export.
//! Requests are done one after the other, but those that are delayed or hang.

use crate::disk::{Disk, Errno};
use crate::fault::{Effect, Kind};
use crate::timeline::Change;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const OPTION_MAX: usize = 64 << 10;
const REQUEST_MAX: u32 = 64 << 20;
/// Has flags, flush, trim, write zeroes.
const FLAGS: u16 = 1 | 4 | 32 | 64;

/// Serves a disk until the process ends.
pub struct Server;

impl Server {
    pub fn start(disk: &Arc<Disk>, socket: &Path) -> io::Result<Server> {
        let listener = UnixListener::bind(socket)?;
        let disk = Arc::clone(disk);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let disk = Arc::clone(&disk);
                // A client that goes away or misbehaves has ended its connection.
                thread::spawn(move || serve(&disk, stream).is_ok());
            }
        });
        Ok(Server)
    }
}

fn serve(disk: &Arc<Disk>, mut stream: UnixStream) -> io::Result<()> {
    if !greet(disk, &mut stream)? {
        return Ok(());
    }
    let replies = Arc::new(Mutex::new(stream.try_clone()?));
    loop {
        let request = Request::receive(&mut stream)?;
        let Some(request) = request else { return Ok(()) };
        let effect = request.kind().and_then(|kind| disk.effect(kind, &request.bytes));
        let job = Job { disk: Arc::clone(disk), replies: Arc::clone(&replies), request };
        match effect {
            None => job.finish(None)?,
            Some(Effect::Fail(errno)) => job.finish(Some(errno))?,
            Some(Effect::Delay(time)) => {
                thread::spawn(move || {
                    thread::sleep(time);
                    job.finish(None).is_ok()
                });
            }
            Some(Effect::Hang) => {
                thread::spawn(move || {
                    job.disk.hang();
                    job.finish(None).is_ok()
                });
            }
        }
    }
}

/// True once the client wants to transmit.
fn greet(disk: &Disk, stream: &mut UnixStream) -> io::Result<bool> {
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
    let no_zeroes = u32::from_be_bytes(receive(stream)?) & 2 != 0;
    loop {
        let _magic: [u8; 8] = receive(stream)?;
        let option = u32::from_be_bytes(receive(stream)?);
        let length = u32::from_be_bytes(receive(stream)?) as usize;
        if length > OPTION_MAX {
            return Ok(false);
        }
        stream.read_exact(&mut vec![0; length])?;
        let mut reply = |kind: u32, payload: &[u8]| {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            bytes.extend(option.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend((payload.len() as u32).to_be_bytes());
            bytes.extend(payload);
            stream.write_all(&bytes)
        };
        let mut export = disk.size.to_be_bytes().to_vec();
        export.extend(FLAGS.to_be_bytes());
        match option {
            1 => {
                export.resize(if no_zeroes { 10 } else { 134 }, 0);
                stream.write_all(&export)?;
                return Ok(true);
            }
            2 => return Ok(false),
            6 | 7 => {
                reply(3, &[&[0, 0], &export[..]].concat())?;
                reply(1, &[])?;
                if option == 7 {
                    return Ok(true);
                }
            }
            _ => reply(0x8000_0001, &[])?,
        }
    }
}

fn receive<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

struct Request {
    code: u16,
    cookie: [u8; 8],
    bytes: Range<u64>,
    payload: Vec<u8>,
}

impl Request {
    /// `None` when the client says good-bye.
    fn receive(stream: &mut UnixStream) -> io::Result<Option<Request>> {
        let magic = u32::from_be_bytes(receive(stream)?);
        let _flags: [u8; 2] = receive(stream)?;
        let code = u16::from_be_bytes(receive(stream)?);
        let cookie = receive(stream)?;
        let offset = u64::from_be_bytes(receive(stream)?);
        let length = u32::from_be_bytes(receive(stream)?);
        if magic != REQUEST || code == 2 || (code < 2 && length > REQUEST_MAX) {
            return Ok(None);
        }
        let mut payload = vec![0; if code == 1 { length as usize } else { 0 }];
        stream.read_exact(&mut payload)?;
        let bytes = offset..offset.saturating_add(u64::from(length));
        Ok(Some(Request { code, cookie, bytes, payload }))
    }

    fn kind(&self) -> Option<Kind> {
        match self.code {
            0 => Some(Kind::Read),
            1 | 4 | 6 => Some(Kind::Write),
            3 => Some(Kind::Flush),
            _ => None,
        }
    }
}

/// A request that is to be done and answered.
struct Job {
    disk: Arc<Disk>,
    replies: Arc<Mutex<UnixStream>>,
    request: Request,
}

impl Job {
    fn finish(self, error: Option<Errno>) -> io::Result<()> {
        let (error, data) = match error {
            Some(errno) => (errno as u32, Vec::new()),
            None => self.perform(),
        };
        let mut reply = REPLY.to_be_bytes().to_vec();
        reply.extend(error.to_be_bytes());
        reply.extend(self.request.cookie);
        reply.extend(data);
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).write_all(&reply)
    }

    /// The error code, and what was read.
    fn perform(&self) -> (u32, Vec<u8>) {
        let Request { code, bytes, payload, .. } = &self.request;
        let (offset, length) = (bytes.start, bytes.end - bytes.start);
        if bytes.end > self.disk.size {
            return (Errno::Invalid as u32, Vec::new());
        }
        match code {
            0 => return (0, self.disk.read(offset, length as usize)),
            1 => {
                let data = Some(payload.as_slice().into());
                self.disk.change(Change { offset, length, data });
            }
            4 | 6 => self.disk.change(Change { offset, length, data: None }),
            3 => self.disk.flush(),
            _ => return (Errno::Invalid as u32, Vec::new()),
        }
        (0, Vec::new())
    }
}

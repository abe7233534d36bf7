//! A client that sends its requests in batches over one connection and prints IOPS and the
//! server's CPU time per request, so that the client's own cost does not hide the server's.
//!
//! `nbd-batch --socket PATH --export NAME --workload randread|randwrite --block 4096 --depth 32
//! --seconds 5 --server-pid PID`. It takes all replies the socket holds, and sends one batch with as
//! many new requests. Reads are not verified; randwrite overwrites the export.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Job {
    block: u32,
    depth: usize,
    time: Duration,
    write: bool,
    server_pid: Option<u32>,
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn main() -> Result<()> {
    let workload = argument("--workload").unwrap_or_else(|| "randread".to_owned());
    let job = Job {
        block: argument("--block").map_or(Ok(4096), |text| text.parse())?,
        depth: argument("--depth").map_or(Ok(32), |text| text.parse())?,
        time: Duration::from_secs_f64(argument("--seconds").map_or(Ok(5.0), |t| t.parse())?),
        write: match workload.as_str() {
            "randread" => false,
            "randwrite" => true,
            _ => return Err("--workload is randread or randwrite".into()),
        },
        server_pid: argument("--server-pid").map(|text| text.parse()).transpose()?,
    };
    let mut socket = UnixStream::connect(argument("--socket").ok_or("--socket PATH is missing")?)?;
    let export = argument("--export").unwrap_or_default();
    let size = open(&mut socket, &export)?;
    let cpu_before = cpu_time(job.server_pid)?;
    let begun = Instant::now();
    let requests = run(&mut socket, &job, size)?;
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu = cpu_time(job.server_pid)? - cpu_before;
    println!(
        "{workload} block={} depth={}: {:.0} IOPS, {:.1} MB/s, {:.2} us server CPU per request",
        job.block,
        job.depth,
        requests as f64 / elapsed,
        requests as f64 * f64::from(job.block) / elapsed / 1e6,
        cpu * 1e6 / requests as f64,
    );
    Ok(())
}

/// The handshake by EXPORT_NAME, so that replies are simple ones. Returns the export's size.
fn open(socket: &mut UnixStream, export: &str) -> Result<u64> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(b"IHAVEOPT\0\0\0\x01");
    bytes.extend((export.len() as u32).to_be_bytes());
    bytes.extend(export.as_bytes());
    socket.write_all(&bytes)?;
    let mut answer = [0; 10];
    socket.read_exact(&mut answer).map_err(|_| "the server refused the export")?;
    let mut size = [0; 8];
    size.copy_from_slice(&answer[..8]);
    Ok(u64::from_be_bytes(size))
}

/// Keeps `depth` requests in flight until the time is over; returns how many were answered.
fn run(socket: &mut UnixStream, job: &Job, size: u64) -> Result<u64> {
    let blocks = (size / u64::from(job.block)).max(1);
    let reply_size = 16 + if job.write { 0 } else { job.block as usize };
    let mut random = 0x1234_5678_9abc_def0_u64;
    let mut batch = Vec::new();
    let mut input = vec![0; (reply_size * job.depth).max(1 << 20)];
    let mut filled = 0;
    let mut answered = 0;
    let mut fresh = job.depth;
    let deadline = Instant::now() + job.time;
    loop {
        batch.clear();
        for _ in 0..fresh {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            put_request(&mut batch, job, random % blocks * u64::from(job.block));
        }
        socket.write_all(&batch)?;
        fresh = 0;
        while fresh == 0 {
            let count = socket.read(&mut input[filled..])?;
            if count == 0 {
                return Err("the server closed the connection".into());
            }
            filled += count;
            while filled >= (fresh + 1) * reply_size {
                if input[fresh * reply_size + 4..fresh * reply_size + 8] != [0; 4] {
                    return Err("a request failed".into());
                }
                fresh += 1;
            }
        }
        input.copy_within(fresh * reply_size..filled, 0);
        filled -= fresh * reply_size;
        answered += fresh as u64;
        if Instant::now() >= deadline {
            return Ok(answered);
        }
    }
}

fn put_request(batch: &mut Vec<u8>, job: &Job, offset: u64) {
    batch.extend(0x2560_9513_u32.to_be_bytes());
    batch.extend(u32::from(job.write).to_be_bytes());
    batch.extend(offset.to_be_bytes()); // the cookie: any number will do
    batch.extend(offset.to_be_bytes());
    batch.extend(job.block.to_be_bytes());
    if job.write {
        batch.resize(batch.len() + job.block as usize, (offset >> 12) as u8 | 1);
    }
}

/// Seconds of CPU the server has used, all threads, in user and kernel mode.
fn cpu_time(pid: Option<u32>) -> Result<f64> {
    let Some(pid) = pid else { return Ok(0.0) };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("/proc/PID/stat without a name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

//! Opens a pool, reads one cluster of each image, and tells how long it took and what memory it takes.
//!
//! `cargo run --release -p blockyard-pool --example open_pool -- DIR`, with DIR made by
//! `cargo xtask make-pool`. For figures of a cold start, drop the caches first.

use blockyard_block::BlockDevice;
use blockyard_io::{Directory, HostDirectory, HostOptions, MappedFile, block_on};
use blockyard_pool::{Client, OpenOptions, Pool};
use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which pool?")?;
    let started = Instant::now();
    let journal_path = std::path::Path::new(&path).join("journal");
    let directory = HostDirectory::open(&path, HostOptions::default())?;
    let data = block_on(directory.open("data"))?;
    let length = Pool::<HostDirectory>::JOURNAL_BYTES as u64;
    let journal = MappedFile::open(&journal_path, length, Duration::ZERO)?;
    let pool = block_on(Pool::open(directory, data, Box::new(journal), OpenOptions::default()))?;
    println!("opened     {:7.1} ms", milliseconds(started));
    println!("RssAnon    {:>7} kB", resident_anonymous()?);
    for image in pool.images() {
        let client = Client {
            connection: 0,
            pid: None,
            uid: None,
            writes: false,
            purpose: "example".to_owned(),
        };
        let volume = pool.open_image(&image.name, client)?;
        block_on(volume.read(0, 4096))?;
    }
    println!("all read   {:7.1} ms", milliseconds(started));
    let status = pool.status()?;
    println!("status     {:7.1} ms", milliseconds(started));
    println!("RssAnon    {:>7} kB", resident_anonymous()?);
    println!("physical   {:>7} MiB in {} images", status.bytes_physical >> 20, status.images);
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Kilobytes, as Linux tells.
fn resident_anonymous() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

//! The parts, one function each.

use super::{Options, Table};
use crate::Result;
use crate::client::{self, Address, Load, Operation, Outcome, Pattern};
use crate::process::{Process, Usage};
use crate::run::{Plan, measure_load};
use crate::sample::Sample;
use crate::servers::{Kind, Mode, Place, Server, must};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const CLUSTER: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A place that removes itself.
fn place(plan: &Plan, size: u64) -> Result<(tempfile::TempDir, Place)> {
    let folder = tempfile::tempdir_in(&plan.folder)?;
    let place = Place { folder: folder.path().to_owned(), programs: plan.programs.clone(), size };
    Ok((folder, place))
}

fn small(operation: Operation) -> Load {
    Load::new(operation, Pattern::Random, CLUSTER as usize, 32)
}

fn speed(sample: &Sample) -> [String; 3] {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
    [format!("{:.0}", sample.rate), number(sample.cpu_us), number(sample.p99_us)]
}

fn row(first: impl ToString, others: &[[String; 3]]) -> Vec<String> {
    [vec![first.to_string()], others.concat()].concat()
}

/// 64 connections of depth 1, dealt out over 1, 8 and 64 images of together `plan.size` bytes.
pub(super) fn images(plan: &Plan, _: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Images: 64 connections x depth 1, 4K random, O_DIRECT, the same bytes in all",
        &["images", "read IOPS", "CPU us", "p99 us", "overwrite IOPS", "CPU us", "p99 us"],
    );
    for count in [1, 8, 64] {
        let (_folder, place) = place(plan, plan.size / count)?;
        let server = place.start(Kind::Blockyard, Mode::Direct)?;
        let addresses = make_images(plan, &place, &server, count)?;
        let mut sides = Vec::new();
        for operation in [Operation::Read, Operation::Write] {
            let load = Load { depth: 1, ..small(operation).over(64).lasting(plan.time) };
            let meter = || server.process.usage();
            let (outcome, before, after) = client::run_on(&addresses, &load, meter)?;
            sides.push(speed(&costing(&outcome, before, after)));
        }
        table.rows.push(row(count, &sides));
    }
    Ok(table)
}

fn costing(outcome: &Outcome, before: Usage, after: Usage) -> Sample {
    Sample::of_outcome(outcome, CLUSTER as usize).costing(before, after, 0)
}

/// `disk` and others, all written.
fn make_images(plan: &Plan, place: &Place, server: &Server, count: u64) -> Result<Vec<Address>> {
    let mut addresses = vec![server.address.clone()];
    for number in 1..count {
        let export = format!("disk-{number}");
        let mut create = Command::new(plan.programs.blockyard());
        create.arg("--pool").arg(place.path_of(Kind::Blockyard)).args(["image", "create", &export]);
        must(create.arg(place.size.to_string()))?;
        addresses.push(Address { export, ..server.address.clone() });
    }
    for (seed, address) in addresses.iter().enumerate() {
        let fill = Load::new(Operation::Write, Pattern::Through, 1 << 20, 8).seeded(seed as u64);
        client::run(address, &fill, || Ok(()))?;
    }
    Ok(addresses)
}

/// A pool that `cargo xtask make-pool` made, and its daemon: how long until it serves a first read.
struct Synthetic {
    _folder: tempfile::TempDir,
    process: Process,
    address: Address,
    first_read: Duration,
}

fn synthetic(plan: &Plan, gib: u64) -> Result<Synthetic> {
    let (folder, place) = place(plan, GIB)?;
    let pool = place.path_of(Kind::Blockyard);
    let mut make = Command::new(plan.programs.ours.join("xtask"));
    must(make.args(["make-pool", "--images", "1", "--gib", &gib.to_string()]).arg(&pool))?;
    forget_cached_pages();
    let socket = folder.path().join("nbd.sock");
    let begun = Instant::now();
    let mut serve = Command::new(plan.programs.blockyard());
    serve.args(["serve", "--pool"]).arg(&pool).arg("--nbd-socket").arg(&socket);
    let process = Process::start(serve, &folder.path().join("log"))?;
    let mut address = Address { socket, export: String::new() };
    crate::process::wait_for("the pool's socket", || {
        std::os::unix::net::UnixStream::connect(&address.socket).is_ok()
    })?;
    address.export = first_image(plan, &pool)?;
    let one = Load { stamped: false, ..small(Operation::Read).within(CLUSTER) };
    client::run(&address, &Load { pattern: Pattern::Through, ..one }, || Ok(()))?;
    Ok(Synthetic { _folder: folder, process, address, first_read: begun.elapsed() })
}

/// Without the right to it, figures are those of a warm start.
fn forget_cached_pages() {
    rustix::fs::sync();
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
}

fn first_image(plan: &Plan, pool: &Path) -> Result<String> {
    let mut list = Command::new(plan.programs.blockyard());
    let output = list.arg("--json").arg("--pool").arg(pool).args(["image", "list"]).output()?;
    let images: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let list = images.as_array().or_else(|| images["images"].as_array());
    let name = list.and_then(|images| images.first()?["name"].as_str());
    Ok(name.ok_or("the pool has no image")?.to_owned())
}

/// Maps of 1 GiB to 1 TiB, all allocated, without data: reads find holes of the file.
pub(super) fn pools(plan: &Plan, options: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Pool size: one image, all of it allocated (half of the extents fragmented), sparse data, caches dropped",
        &["pool GiB", "first read s", "anonymous MiB", "random read IOPS", "CPU us", "p99 us"],
    );
    for gib in [1, 16, 256, 1024].into_iter().filter(|gib| *gib <= options.pool_gib) {
        let pool = synthetic(plan, gib)?;
        let load = Load { stamped: false, ..small(Operation::Read).lasting(plan.time) };
        let anonymous = settled_mib(&pool)?;
        let (outcome, before, after) = client::run(&pool.address, &load, || pool.process.usage())?;
        let mut cells = vec![
            gib.to_string(),
            format!("{:.2}", pool.first_read.as_secs_f64()),
            format!("{anonymous:.0}"),
        ];
        cells.extend(speed(&costing(&outcome, before, after)));
        table.rows.push(cells);
    }
    Ok(table)
}

/// Anonymous MiB when the scan that readies the pool for writes, some time after the first read, has ended.
fn settled_mib(pool: &Synthetic) -> Result<f64> {
    let mut last = 0;
    crate::process::wait_for("memory to stop growing", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = pool.process.memory().map_or(0, |memory| memory.1);
        std::mem::replace(&mut last, now) == now
    })?;
    Ok(last as f64 / f64::from(1 << 20))
}

/// What a pool of so many GiB takes more than one of 1 GiB, scaled to 1 TiB.
pub(super) fn anonymous_mib_per_tib(plan: &Plan, gib: u64) -> Result<(f64, String)> {
    let more = settled_mib(&synthetic(plan, gib)?)? - settled_mib(&synthetic(plan, 1)?)?;
    let note =
        format!("a pool of {gib} GiB against one of 1 GiB, `cargo xtask make-pool`, RssAnon");
    Ok((more * 1024.0 / (gib - 1).max(1) as f64, note))
}

/// Clusters written since the last flush, then reads and writes beside them.
pub(super) fn dirty(plan: &Plan, options: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Dirty clusters: so many distinct clusters written just before, 4K random depth 32, O_DIRECT",
        &["dirty", "read IOPS", "CPU us", "p99 us", "overwrite IOPS", "CPU us", "p99 us"],
    );
    for count in [0, 10_000, 100_000, 1_000_000].into_iter().filter(|count| *count <= options.dirty)
    {
        let size = plan.size.max((options.dirty * CLUSTER).next_multiple_of(MIB));
        let (_folder, place) = place(plan, size)?;
        let server = place.start(Kind::Blockyard, Mode::Direct)?;
        server.fill(1, None)?;
        if count > 0 {
            let once =
                Load { pattern: Pattern::Once, ..small(Operation::Write).within(count * CLUSTER) };
            server.load(&once)?;
        }
        let mut sides = Vec::new();
        for operation in [Operation::Read, Operation::Write] {
            sides.push(speed(&measure_load(&server, &small(operation).lasting(plan.time))?));
        }
        table.rows.push(row(count, &sides));
    }
    Ok(table)
}

/// An image with single clusters, in no order and in no neighbourhood, that another image has.
pub(super) fn references(plan: &Plan, options: &Options) -> Result<Table> {
    let mut table = Table::new(
        "References: so many scattered clusters are another image's after `reclaim`; 4K random depth 32 and 1M \
         sequential depth 4, O_DIRECT",
        &[
            "references",
            "read IOPS",
            "CPU us",
            "p99 us",
            "1M reads",
            "CPU us",
            "p99 us",
            "overwrite IOPS",
            "CPU us",
            "p99 us",
        ],
    );
    let most = options.references.min(plan.size / CLUSTER);
    for count in [0, 1, 1_000, 10_000, 100_000].into_iter().filter(|count| *count <= most) {
        let (_folder, place) = place(plan, plan.size)?;
        let mut server = place.start(Kind::Blockyard, Mode::Direct)?;
        let pool = place.path_of(Kind::Blockyard);
        let ours = |words: &[&str]| {
            let mut command = Command::new(plan.programs.blockyard());
            must(command.arg("--pool").arg(&pool).args(words))
        };
        for name in ["first", "referring"] {
            let file = place.folder.join(name);
            write_sharing(&file, plan.size, count, name == "first")?;
            ours(&["image", "import", &file.to_string_lossy(), name])?;
            std::fs::remove_file(&file)?;
        }
        ours(&["reclaim"])?;
        server.address.export = "referring".to_owned();
        let mut sides = Vec::new();
        let reads = small(Operation::Read);
        let large = Load::new(Operation::Read, Pattern::Sequential, 1 << 20, 4);
        for load in [reads, large, small(Operation::Write)] {
            let load = Load { stamped: false, ..load.lasting(plan.time) };
            sides.push(speed(&measure_load(&server, &load)?));
        }
        table.rows.push(row(count, &sides));
    }
    Ok(table)
}

/// A file of noise. Clusters 0 to `count` of the first file occur in the other, each somewhere else.
fn write_sharing(path: &Path, size: u64, count: u64, first: bool) -> Result<()> {
    let clusters = size / CLUSTER;
    let noise = client::stamp::noise(CLUSTER as usize, 1);
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create_new(path)?);
    let mut places = vec![None; clusters as usize];
    if !first {
        let load = Load::new(Operation::Write, Pattern::Once, CLUSTER as usize, 1);
        let scattered = client::offsets(&load, size).map(|offset| offset / CLUSTER);
        for (place, number) in scattered.zip(0..count) {
            places[place as usize] = Some(number);
        }
    }
    for (cluster, shared) in (0..clusters).zip(places) {
        let mut content = noise.clone();
        let (number, whose) = match shared {
            Some(number) => (number, true),
            None => (cluster, first),
        };
        client::stamp::put(&mut content, number * CLUSTER, u64::from(whose));
        file.write_all(&content)?;
    }
    Ok(file.flush()?)
}

/// SIGKILL after random overwrites, by how much was written.
pub(super) fn recovery(plan: &Plan, _: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Recovery: SIGKILL after random overwrites of a written image",
        &["image GiB", "clusters written", "start to ready s"],
    );
    for share in [4, 1] {
        let (_folder, place) = place(plan, plan.size / share)?;
        let server = place.start(Kind::Blockyard, Mode::Direct)?;
        server.fill(1, None)?;
        let load = small(Operation::Write).lasting(plan.time);
        let written = measure_load(&server, &load)?.requests;
        server.crash();
        drop(server);
        let begun = Instant::now();
        let again = place.start(Kind::Blockyard, Mode::Direct)?;
        let ready = begun.elapsed();
        again.warm()?;
        let gib = format!("{:.2}", place.size as f64 / GIB as f64);
        table.rows.push(vec![gib, written.to_string(), format!("{:.3}", ready.as_secs_f64())]);
    }
    Ok(table)
}

/// A file that is sparse, fallocated, or written; and an image that is empty or written.
pub(super) fn flush(plan: &Plan, _: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Flush latency: 4K random write and flush, depth 1, O_DIRECT",
        &["under it", "a second", "CPU us", "p99 us", "p50 us"],
    );
    for (kind, state) in [
        (Kind::NoEngine, "sparse"),
        (Kind::NoEngine, "fallocated"),
        (Kind::NoEngine, "written"),
        (Kind::Blockyard, "empty"),
        (Kind::Blockyard, "written"),
    ] {
        let (_folder, place) = place(plan, plan.size / 2)?;
        if state == "fallocated" {
            let file = place.path_of(kind);
            must(Command::new("fallocate").args(["-l", &place.size.to_string()]).arg(&file))?;
        }
        let server = place.start(kind, Mode::Direct)?;
        if state == "written" {
            server.fill(1, None)?;
        }
        let load = Load::new(Operation::DurableWrite, Pattern::Once, CLUSTER as usize, 1);
        let sample = measure_load(&server, &load.lasting(plan.time))?;
        let mut cells = row(format!("{}, {state}", kind.name()), &[speed(&sample)]);
        cells.push(format!("{:.1}", sample.p50_us.unwrap_or_default()));
        table.rows.push(cells);
    }
    Ok(table)
}

/// How many pieces the file system has made of the data file.
pub(super) fn fragments(plan: &Plan, _: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Fragments of the data file, by filefrag",
        &["written", "MiB", "file extents", "MiB an extent"],
    );
    for (pattern, block, words) in [
        (Pattern::Through, 1 << 20, "1M in order"),
        (Pattern::Once, CLUSTER as usize, "4K at random, each once"),
    ] {
        let (_folder, place) = place(plan, plan.size / 2)?;
        let server = place.start(Kind::Blockyard, Mode::Direct)?;
        server.load(&Load::new(Operation::Write, pattern, block, 32))?;
        drop(server);
        let file = place.path_of(Kind::Blockyard).join("data");
        let output = Command::new("filefrag").arg(&file).output()?;
        let extents = extents_found(&String::from_utf8(output.stdout)?)?;
        let mib = place.size / (1 << 20);
        let mean = format!("{:.1}", mib as f64 / extents as f64);
        table.rows.push(vec![words.to_owned(), mib.to_string(), extents.to_string(), mean]);
    }
    Ok(table)
}

/// From `PATH: 17 extents found`.
fn extents_found(line: &str) -> Result<u64> {
    let (_, rest) = line.rsplit_once(": ").ok_or("filefrag said nothing")?;
    Ok(rest.split(' ').next().unwrap_or_default().parse()?)
}

pub(super) fn amplification(plan: &Plan, options: &Options) -> Result<Table> {
    let (ratio, note) = write_amplification(plan, options)?;
    let mut table = Table::new("Write amplification", &["bytes to disk / bytes written", "how"]);
    table.rows.push(vec![format!("{ratio:.3}"), note]);
    Ok(table)
}

/// Bytes that the daemon sends to storage, to all of its files, for each byte that a guest overwrites
/// at random. What it defers is waited for, and the daemon is ended in order, before the count ends.
pub(super) fn write_amplification(plan: &Plan, options: &Options) -> Result<(f64, String)> {
    let size = (options.amplification_gib * GIB as f64) as u64;
    let (_folder, place) = place(plan, size)?;
    let server = place.start(Kind::Blockyard, Mode::Direct)?;
    server.fill(1, None)?;
    // What filling has deferred is not the overwrites' cost.
    std::thread::sleep(DEFERRED);
    let before = server.process.usage()?.written;
    let time = Duration::from_secs_f64(options.amplification_seconds);
    let sample = measure_load(&server, &small(Operation::Write).lasting(time))?;
    std::thread::sleep(DEFERRED);
    let written = server.process.usage()?.written - before;
    let note = format!(
        "4K random overwrites for {} s in {} GiB, {:.0} a second, and {} s after; write_bytes of /proc/PID/io",
        options.amplification_seconds,
        options.amplification_gib,
        sample.rate,
        DEFERRED.as_secs(),
    );
    Ok((written as f64 / (sample.requests * CLUSTER) as f64, note))
}

/// Longer than the engine lets hashes wait.
const DEFERRED: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    use super::extents_found;

    #[test]
    fn filefrag_is_read_by_its_last_colon() {
        assert_eq!(extents_found("/a: b/data: 17 extents found\n").unwrap(), 17);
        assert_eq!(extents_found("data: 1 extent found\n").unwrap(), 1);
        assert!(extents_found("").is_err());
    }
}

//! A client: one task that opens images and reads, writes and flushes them, checking what it reads.
//!
//! Several run at once and favour the same few places, so requests overlap.

use crate::content::{SECTOR, Tag};
use crate::context::{Context, SimVolume};
use crate::model::{Rule, SharedImage, Value};
use crate::report::Count;
use blockyard_block::{
    AllocationState, BlockDevice, Buffer, BufferMut, CLUSTER_SIZE, EXTENT_SIZE, Error, ErrorKind,
    Segment, ZeroOptions,
};
use blockyard_pool::Client as PoolClient;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

const SECTOR_BYTES: u64 = SECTOR as u64;
const CLUSTER_BYTES: u64 = CLUSTER_SIZE as u64;

pub(crate) struct Client {
    pub(crate) context: Rc<Context>,
    pub(crate) number: u64,
}

/// An image and its open volume.
pub(crate) struct Opened {
    pub(crate) image: SharedImage,
    pub(crate) volume: SimVolume,
    disturbances: u64,
}

impl Client {
    /// Makes requests until so many were made or a violation was found.
    pub(crate) async fn run(self, operations: u64) {
        let mut opened: Option<Opened> = None;
        for _ in 0..operations {
            if self.context.violation().is_some() {
                return;
            }
            if self.context.one_in(6) {
                opened = None;
                self.context.trace(format_args!("client {} manages", self.number));
                self.manage().await;
                continue;
            }
            if self.context.one_in(12) || opened.as_ref().is_some_and(|opened| !opened.usable()) {
                opened = None;
            }
            if opened.is_none() {
                opened = self.open();
            }
            if let Some(opened) = &opened {
                self.request(opened).await;
            }
        }
    }

    /// The same, with images as they are.
    pub(crate) async fn run_requests(self, operations: u64) {
        let mut opened: Option<Opened> = None;
        for _ in 0..operations {
            if self.context.violation().is_some() {
                return;
            }
            if self.context.one_in(4) || opened.as_ref().is_some_and(|opened| !opened.usable()) {
                opened = None;
            }
            opened = opened.or_else(|| self.open());
            if let Some(opened) = &opened {
                self.request(opened).await;
                self.context.next_sequence();
            }
        }
    }

    fn open(&self) -> Option<Opened> {
        self.open_image(self.any_image()?)
    }

    /// Opens this image, if it can be written to now.
    pub(crate) fn open_writable(&self, image: &SharedImage) -> Option<Opened> {
        let writable = image.borrow().is_usable() && image.borrow().writable;
        if writable { self.open_image(Rc::clone(image)) } else { None }
    }

    fn open_image(&self, image: SharedImage) -> Option<Opened> {
        let (name, writable) = (image.borrow().name.clone(), image.borrow().writable);
        let client = PoolClient {
            connection: self.number,
            pid: None,
            uid: None,
            writes: writable,
            purpose: "simulation".to_owned(),
        };
        match self.context.pool().open_image(&image_name(&name), client) {
            Ok(volume) => Some(Opened::new(image, volume)),
            Err(error) => {
                if !image.borrow().managed {
                    self.context.judge_error(format_args!("opening {name}"), &error);
                }
                None
            }
        }
    }

    pub(crate) fn any_image(&self) -> Option<SharedImage> {
        let model = self.context.model.borrow();
        let usable: Vec<&SharedImage> =
            model.images.values().filter(|image| image.borrow().is_usable()).collect();
        if usable.is_empty() {
            return None;
        }
        Some(Rc::clone(usable[self.context.below(usable.len() as u64) as usize]))
    }

    async fn request(&self, opened: &Opened) {
        let writable = opened.image.borrow().writable;
        if writable && self.context.one_in(self.context.scenario.one_in_equal) {
            return self.write_equal(opened).await;
        }
        match self.context.below(20) {
            0..=4 => self.read(opened).await,
            5 | 6 => self.flush(opened).await,
            7 => self.ask_allocation(opened).await,
            _ if !writable => self.read(opened).await,
            8 => self.discard(opened).await,
            9 => self.write_zeroes(opened).await,
            10 => self.write_bytes(opened).await,
            _ => self.write(opened).await,
        }
    }

    /// A range of whole sectors that no other request has fenced off.
    fn pick_sectors(&self, opened: &Opened) -> Option<Range<u64>> {
        let size = opened.image.borrow().size.min(opened.volume.size());
        let range = self.pick_range(size)?;
        let sectors = range.start / SECTOR_BYTES..range.end / SECTOR_BYTES;
        (!opened.image.borrow().is_fenced(&sectors)).then_some(sectors)
    }

    fn pick_range(&self, size: u64) -> Option<Range<u64>> {
        let below = |bound: u64| self.context.below(bound);
        if size == 0 {
            return None;
        }
        let place = match below(4) {
            0 => below(size),
            1 => size.saturating_sub(below(20) * SECTOR_BYTES + 1),
            2 => below(size.div_ceil(EXTENT_SIZE)) * EXTENT_SIZE + below(16 * CLUSTER_BYTES),
            _ => (below(3) * EXTENT_SIZE + EXTENT_SIZE).saturating_sub(below(8) * CLUSTER_BYTES),
        };
        let (unit, length) = match below(16) {
            0 => (CLUSTER_BYTES, (1 + below(256)) * CLUSTER_BYTES),
            1..=7 => (CLUSTER_BYTES, (1 + below(12)) * CLUSTER_BYTES),
            _ => (SECTOR_BYTES, (1 + below(40)) * SECTOR_BYTES),
        };
        let start = place.min(size - 1) / unit * unit;
        Some(start..(start + length).min(size))
    }

    pub(crate) async fn write(&self, opened: &Opened) {
        let Some(sectors) = self.pick_sectors(opened) else { return };
        self.write_sectors(opened, sectors).await;
    }

    /// Writes to the cluster at `offset`, unless another request has fenced it off.
    pub(crate) async fn write_cluster(&self, opened: &Opened, offset: u64) {
        let end = (offset + CLUSTER_BYTES).min(opened.volume.size());
        let sectors = offset / SECTOR_BYTES..end / SECTOR_BYTES;
        if opened.usable() && !opened.image.borrow().is_fenced(&sectors) {
            self.write_sectors(opened, sectors).await;
        }
    }

    async fn write_sectors(&self, opened: &Opened, sectors: Range<u64>) {
        let mut tag = Tag::new(self.context.next_sequence(), opened.image.borrow().serial);
        if self.context.one_in(16) {
            tag = Tag::ZEROS;
        }
        let fua = self.context.one_in(8);
        let bytes = byte_range(&sectors);
        let mut data = BufferMut::zeroed_at_phase(
            (bytes.end - bytes.start) as usize,
            (bytes.start % CLUSTER_BYTES) as usize,
        );
        tag.fill(&mut data, sectors.start);
        let request = opened.volume.write(bytes.start, data.freeze(), fua);
        self.change(opened, sectors, "write", fua, |_| Value::Whole(tag), request).await;
    }

    /// Writes clusters of a few kinds that others have, too: with runs that are equal for some length.
    async fn write_equal(&self, opened: &Opened) {
        let Some(sectors) = self.pick_sectors(opened) else { return };
        let per_cluster = CLUSTER_BYTES / SECTOR_BYTES;
        let start = sectors.start.next_multiple_of(per_cluster);
        let end = sectors.end / per_cluster * per_cluster;
        if start >= end {
            return;
        }
        self.context.next_sequence();
        let first_kind = self.context.below(EQUAL_KINDS);
        let value = |sector: u64| {
            let kind = (first_kind + (sector - start) / per_cluster) % EQUAL_KINDS;
            Value::Mixed(equal_sector(kind, sector % per_cluster))
        };
        let all: Vec<u8> = (start..end).flat_map(|sector| value(sector).bytes(sector)).collect();
        let fua = self.context.one_in(8);
        let request = opened.volume.write(start * SECTOR_BYTES, Buffer::copy_of(&all), fua);
        self.change(opened, start..end, "write what others have to", fua, value, request).await;
    }

    async fn discard(&self, opened: &Opened) {
        let Some(sectors) = self.pick_sectors(opened) else { return };
        self.context.next_sequence();
        let fua = self.context.one_in(8);
        let bytes = byte_range(&sectors);
        let request = opened.volume.discard(bytes.start, bytes.end - bytes.start, fua);
        self.change(opened, sectors, "discard", fua, |_| Value::ZEROS, request).await;
    }

    async fn write_zeroes(&self, opened: &Opened) {
        let Some(sectors) = self.pick_sectors(opened) else { return };
        self.context.next_sequence();
        let options =
            ZeroOptions { keep_place: self.context.one_in(2), fua: self.context.one_in(8) };
        let bytes = byte_range(&sectors);
        let request = opened.volume.write_zeroes(bytes.start, bytes.end - bytes.start, options);
        let what = if options.keep_place { "write zeroes, keep place," } else { "write zeroes" };
        self.change(opened, sectors, what, options.fua, |_| Value::ZEROS, request).await;
    }

    /// Runs a request that gives sectors new values and notes how it ended. Now and then the
    /// client goes away in the middle of it.
    async fn change(
        &self,
        opened: &Opened,
        sectors: Range<u64>,
        what: &str,
        fua: bool,
        value: impl Fn(u64) -> Value,
        request: impl Future<Output = Result<(), Error>>,
    ) {
        let context = &self.context;
        let fua_mark = if fua { " fua" } else { "" };
        let named = format!(
            "client {} {what} {} sectors {}..{}{fua_mark}, request {}",
            self.number,
            opened.image.borrow().name,
            sectors.start,
            sectors.end,
            context.sequence()
        );
        context.trace(&named);
        let ticket = context.model.borrow_mut().begin_write(&opened.image, sectors, value);
        let gives_up = context.scenario.clients_give_up && context.one_in(40);
        let polls = if gives_up { context.below(4) } else { u64::MAX };
        let answer = give_up_after(polls, request).await;
        let done = matches!(answer, Some(Ok(())));
        context.model.borrow_mut().end_write(&opened.image, ticket, done, fua);
        match answer {
            Some(Ok(())) => context.trace(format_args!("done: {named}")),
            Some(Err(error)) => self.judge(opened, &named, &error),
            None => context.trace(format_args!("given up: {named}")),
        }
    }

    /// Writes bytes that do not fill their first or last sector. What those sectors hold then is
    /// known only if nobody else writes to them, hence the fence.
    async fn write_bytes(&self, opened: &Opened) {
        let Some(sectors) = self.pick_sectors(opened) else { return };
        if !opened.image.borrow_mut().fence(sectors.clone()) {
            return;
        }
        let bytes = self.narrow(byte_range(&sectors));
        let tag = Tag::new(self.context.next_sequence(), opened.image.borrow().serial);
        if let Some(values) = mixed_values(opened, &sectors, &bytes, tag) {
            let from = (bytes.start - sectors.start * SECTOR_BYTES) as usize;
            let all: Vec<u8> = (sectors.start..)
                .zip(&values)
                .flat_map(|(sector, value)| value.bytes(sector))
                .collect();
            let data = Buffer::copy_of(&all[from..from + (bytes.end - bytes.start) as usize]);
            let request = opened.volume.write(bytes.start, data, false);
            let first = sectors.start;
            let value = |sector: u64| values[(sector - first) as usize].clone();
            self.change(opened, sectors.clone(), "write bytes of", false, value, request).await;
        }
        opened.image.borrow_mut().unfence(&sectors);
    }

    /// Takes some bytes off both ends, fewer than a sector each.
    fn narrow(&self, bytes: Range<u64>) -> Range<u64> {
        let start = bytes.start + self.context.below(SECTOR_BYTES / 2);
        start..bytes.end - self.context.below(SECTOR_BYTES / 2)
    }

    async fn read(&self, opened: &Opened) {
        let size = opened.image.borrow().size.min(opened.volume.size());
        let Some(mut range) = self.pick_range(size) else { return };
        if self.context.one_in(4) {
            range = self.narrow(range);
        }
        self.context.trace(format_args!(
            "client {} read {} bytes {}..{}",
            self.number,
            opened.image.borrow().name,
            range.start,
            range.end
        ));
        let start = self.context.model.borrow_mut().begin();
        let rule = Rule::Cache { since: start };
        match opened.volume.read(range.start, range.end - range.start).await {
            Ok(segments) if opened.usable() => {
                self.context.check(check_segments(opened, rule, range, &segments));
            }
            // What a shrink cut off meanwhile, the model knows no more.
            Ok(_) => {}
            Err(error) => self.judge(opened, "read", &error),
        }
        self.context.trace(format_args!("client {} has read", self.number));
        self.context.model.borrow_mut().end(start);
    }

    async fn flush(&self, opened: &Opened) {
        let name = opened.image.borrow().name.clone();
        self.context.trace(format_args!("client {} flush {name}", self.number));
        let start = self.context.model.borrow_mut().begin();
        let answer = opened.volume.flush().await;
        self.context.model.borrow_mut().end(start);
        match answer {
            Ok(()) => {
                opened.image.borrow_mut().flushed(start);
                self.context.trace(format_args!("client {} flushed {name}", self.number));
            }
            Err(error) => self.judge(opened, "flush", &error),
        }
    }

    async fn ask_allocation(&self, opened: &Opened) {
        let size = opened.image.borrow().size.min(opened.volume.size());
        let Some(range) = self.pick_range(size) else { return };
        self.context.trace(format_args!("client {} allocation of {range:?}", self.number));
        let start = self.context.model.borrow_mut().begin();
        let answer = opened.volume.allocation(range.start, range.end - range.start, 16).await;
        let rule = Rule::Cache { since: start };
        match answer {
            Ok(_) if !opened.usable() => {}
            Ok(runs) => {
                let mut place = range.start;
                for run in runs {
                    let sectors = place / SECTOR_BYTES..(place + run.length) / SECTOR_BYTES;
                    if run.state != AllocationState::Data {
                        self.context.check(opened.image.borrow().check_zeros(rule, sectors));
                    }
                    place += run.length;
                }
                if place == range.start || place > range.end {
                    self.context.violated(format_args!("allocation of {range:?} covers {place}"));
                }
            }
            Err(error) => self.judge(opened, "allocation", &error),
        }
        self.context.model.borrow_mut().end(start);
    }

    /// An image that is being removed or resized may refuse anything.
    fn judge(&self, opened: &Opened, what: &str, error: &Error) {
        let lazy = opened.image.borrow().lazy && error.kind() != ErrorKind::NoSpace;
        if lazy {
            self.context.note(Count::LazyFailures);
        }
        if opened.usable() && !lazy {
            self.context.judge_error(format_args!("{what} (client {})", self.number), error);
        } else {
            self.context.trace(format_args!("{what}: refused: {error}"));
        }
    }
}

impl Opened {
    pub(crate) fn new(image: SharedImage, volume: SimVolume) -> Opened {
        let disturbances = image.borrow().disturbances;
        Opened { image, volume, disturbances }
    }

    fn usable(&self) -> bool {
        let image = self.image.borrow();
        image.is_usable() && image.disturbances == self.disturbances
    }
}

pub(crate) fn image_name(name: &str) -> blockyard_block::ImageName {
    blockyard_block::ImageName::parse(name).expect("the simulation makes valid names only")
}

/// So many kinds of clusters are written again and again.
const EQUAL_KINDS: u64 = 24;

fn equal_sector(kind: u64, within_cluster: u64) -> Rc<[u8; SECTOR]> {
    let mut bytes = [0; SECTOR];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (kind * 37 + within_cluster * 11 + at as u64 % 251) as u8 | 1;
    }
    Rc::new(bytes)
}

fn byte_range(sectors: &Range<u64>) -> Range<u64> {
    sectors.start * SECTOR_BYTES..sectors.end * SECTOR_BYTES
}

/// The values of the sectors when the tag's bytes are written to `bytes`; `None` if not certain.
fn mixed_values(
    opened: &Opened,
    sectors: &Range<u64>,
    bytes: &Range<u64>,
    tag: Tag,
) -> Option<Vec<Value>> {
    let image = opened.image.borrow();
    let value = |sector: u64| {
        let start = bytes.start.saturating_sub(sector * SECTOR_BYTES).min(SECTOR_BYTES) as usize;
        let end = bytes.end.saturating_sub(sector * SECTOR_BYTES).min(SECTOR_BYTES) as usize;
        if start == 0 && end == SECTOR {
            return Some(Value::Whole(tag));
        }
        let mut mixed = image.certain_value(sector)?.bytes(sector);
        mixed[start..end].copy_from_slice(&tag.sector(sector)[start..end]);
        Some(Value::Mixed(Rc::new(mixed)))
    };
    sectors.clone().map(value).collect()
}

/// Compares what was read with the model. Of sectors read in part nothing is said.
pub(crate) fn check_segments(
    opened: &Opened,
    rule: Rule,
    range: Range<u64>,
    segments: &[Segment],
) -> Result<(), String> {
    let length: u64 = segments.iter().map(Segment::length).sum();
    if length != range.end - range.start {
        return Err(format!("a read of {range:?} returned {length} bytes"));
    }
    let image = opened.image.borrow();
    let mut place = range.start;
    for segment in segments {
        let end = place + segment.length();
        let sectors = place.div_ceil(SECTOR_BYTES)..end / SECTOR_BYTES;
        if sectors.start < sectors.end {
            match segment {
                Segment::Data(data) => {
                    let skipped = (sectors.start * SECTOR_BYTES - place) as usize;
                    let whole = (sectors.end - sectors.start) as usize * SECTOR;
                    image.check_data(rule, sectors.start, &data[skipped..skipped + whole])?;
                }
                Segment::Zeroes(_) => image.check_zeros(rule, sectors)?,
            }
        }
        place = end;
    }
    Ok(())
}

/// Polls the future at most `polls` times, then drops it.
pub(crate) async fn give_up_after<T>(polls: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

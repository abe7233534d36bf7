//! Receiving an image from its list of hashes: from the pool's own image, as if another pool had sent it.
//!
//! The source may be written, shared and removed meanwhile. What is received is then what it held at some
//! moment, sector by sector, or nothing. A source that no snapshot holds is overwritten just while its clusters are
//! taken, as any image of the receiving pool may be. In a SHA-1 pool clusters are proved: then each is read as well.

use crate::client::{Client, Opened, give_up_after, image_name};
use crate::context::SimVolume;
use crate::handle::SimDirectory;
use crate::manage::NOW_UNIX_S;
use crate::model::{Change, SharedImage};
use crate::report::Count;
use blockyard_block::{
    BlockDevice, Buffer, CLUSTER_SIZE, ContentHash, EXTENT_SIZE, Error, ErrorKind, Result, Segment,
    keyed_hash,
};
use blockyard_pool::{Client as PoolClient, Missing, Receive, root_hash};
use futures_lite::future::{yield_now, zip};
use std::rc::Rc;

impl Client {
    /// Makes a new image from what another is told to hold; now and then it is dropped half way.
    pub(crate) async fn receive(&self) {
        let Some(source) = self.any_image() else { return };
        let name = self.fresh_name();
        let (source_name, size) = (source.borrow().name.clone(), source.borrow().size);
        let image = self.context.model.borrow_mut().new_image(&name, size, true);
        let what = format!("client {} receive {source_name} as {name}", self.number);
        source.borrow_mut().copies_in_flight += 1;
        let start = self.begin(&what, Change::Copy { source: Rc::clone(&source), image });
        let answer = self.receive_as(&source, &name, size).await;
        source.borrow_mut().copies_in_flight -= 1;
        match answer {
            Err(error) if may_miss(&error) => {
                self.context.trace(format_args!("{what}: {error}"));
                self.context.model.borrow_mut().refuse_change(start);
            }
            answer => self.conclude(&what, start, Count::Receives, answer, Some(&source)),
        }
    }

    async fn receive_as(&self, source: &SharedImage, name: &str, size: u64) -> Result<()> {
        let context = &self.context;
        let source_name = image_name(&source.borrow().name);
        let pool = context.pool();
        let client = PoolClient {
            connection: self.number,
            pid: None,
            uid: None,
            writes: false,
            purpose: "push".to_owned(),
        };
        let held = context.one_in(2);
        let volume = match held {
            true => pool.hold_snapshot(&source_name, false, NOW_UNIX_S).await?,
            false => pool.open_image(&source_name, client)?,
        };
        if volume.size() != size {
            return Err(Error::new(ErrorKind::Busy, "the source was resized before"));
        }
        let mut receive = pool.begin_receive(&image_name(name), size, NOW_UNIX_S).await?;
        let dropped = context.one_in(8);
        let polls = if dropped { context.below(200) } else { u64::MAX };
        // With it writes would be dropped half way, too.
        let overwritten = if held || dropped { None } else { self.open_writable(source) };
        let fill = self.fill(&mut receive, &volume, overwritten.as_ref());
        match give_up_after(polls, fill).await {
            Some(Ok(summaries)) => {
                let digest = root_hash(context.scenario.hash, size, &summaries);
                receive.finish(digest).await.map(drop)
            }
            given_up => {
                // Judged while what was received still takes its space.
                if let Some(Err(error)) = &given_up
                    && error.kind() == ErrorKind::NoSpace
                    && !may_miss(error)
                {
                    context.judge_error(format_args!("filling {name}"), error);
                    receive.abandon().await;
                    return Err(Error::new(ErrorKind::Busy, "there was no space, as judged"));
                }
                receive.abandon().await;
                let dropped = || Err(Error::new(ErrorKind::Busy, "dropped half way"));
                given_up.unwrap_or_else(dropped).map(drop)
            }
        }
    }

    async fn fill(
        &self,
        receive: &mut Receive<SimDirectory>,
        volume: &SimVolume,
        overwritten: Option<&Opened>,
    ) -> Result<Vec<(u64, ContentHash)>> {
        let told = self.take(receive, volume, overwritten).await?;
        let verify = self.context.one_in(2);
        while let Some(missing) = receive.next_missing(verify).await? {
            self.write_missing(receive, volume, missing).await?;
        }
        while let Some(missing) = receive.next_repeat().await? {
            self.write_missing(receive, volume, missing).await?;
        }
        Ok(told)
    }

    /// Takes what the pool has of it, while some of that is overwritten; returns the summaries that were told.
    pub(crate) async fn take(
        &self,
        receive: &mut Receive<SimDirectory>,
        volume: &SimVolume,
        overwritten: Option<&Opened>,
    ) -> Result<Vec<(u64, ContentHash)>> {
        let by_extent = self.context.one_in(2);
        let mut told = Vec::new();
        for (index, _) in volume.extent_summaries(0, usize::MAX).await? {
            let hashes = volume.extent_hashes(index).await?;
            let summary = hashes.summary(self.context.scenario.hash);
            told.push((index, summary));
            if by_extent {
                let overwrite = self.overwrite_any(overwritten, index);
                let take = async { receive.take_whole(&[(index, summary)], &mut || Ok(())).await };
                let ((), taken) = zip(overwrite, take).await;
                if taken? == [true] {
                    self.context.note(Count::ExtentsTaken);
                    continue;
                }
            }
            receive.lookup().add(index, summary, hashes).await?;
        }
        receive.search(&mut || Ok(())).await?;
        while let Some(found) = receive.next_found().await? {
            let (index, slots) = (found.index, found.slots().collect::<Vec<usize>>());
            let key = [self.context.below(256) as u8; 32];
            let proofs = match receive.needs_proof() {
                true => Some(self.prove(volume, index, &slots, &key).await?),
                false => None,
            };
            let count = if proofs.is_some() { Count::ClustersProved } else { Count::ClustersTaken };
            let proofs = proofs.as_deref().map(|proofs| (&key, proofs));
            let overwrite = self.overwrite(overwritten, index, &slots);
            let (taken, ()) = zip(receive.take(found, proofs), overwrite).await;
            self.context.totals.borrow_mut().note(count, taken? as u64);
        }
        receive.remove_parts();
        Ok(told)
    }

    /// What the source says of its clusters under a key.
    async fn prove(
        &self,
        volume: &SimVolume,
        index: u64,
        slots: &[usize],
        key: &[u8; 32],
    ) -> Result<Vec<ContentHash>> {
        let mut proofs = Vec::with_capacity(slots.len());
        for slot in slots {
            let bytes = read_cluster(volume, cluster_offset(index, *slot)).await?;
            proofs.push(keyed_hash(key, &bytes));
        }
        Ok(proofs)
    }

    /// Writes anywhere in an extent that is being taken, or is about to be. Most of its clusters hold nothing: a write
    /// to one leaves all others trusted.
    async fn overwrite_any(&self, overwritten: Option<&Opened>, index: u64) {
        let Some(opened) = overwritten else { return };
        let bytes = opened.volume.size().saturating_sub(index * EXTENT_SIZE).min(EXTENT_SIZE);
        let clusters = bytes.div_ceil(CLUSTER_SIZE as u64);
        if clusters == 0 {
            return; // it was removed meanwhile
        }
        let slots = [(); 2].map(|()| self.context.below(clusters) as usize);
        if self.context.one_in(2) {
            yield_now().await;
        }
        self.overwrite(overwritten, index, &slots).await;
    }

    /// Writes to the first of the clusters that are being taken.
    pub(crate) async fn overwrite(
        &self,
        overwritten: Option<&Opened>,
        index: u64,
        slots: &[usize],
    ) {
        let Some(opened) = overwritten else { return };
        let most = 1 + self.context.below(8) as usize;
        for slot in slots.iter().take(most) {
            self.write_cluster(opened, cluster_offset(index, *slot)).await;
        }
    }

    async fn write_missing(
        &self,
        receive: &Receive<SimDirectory>,
        volume: &SimVolume,
        missing: Missing,
    ) -> Result<()> {
        for (slot, hash) in missing.slots {
            let bytes = read_cluster(volume, cluster_offset(missing.index, slot)).await?;
            if self.context.scenario.hash.hash(&bytes) != hash {
                return Err(Error::new(ErrorKind::Corrupt, WRITTEN_MEANWHILE));
            }
            receive.writer().write(missing.index, slot, &[hash], &Buffer::copy_of(&bytes)).await?;
            self.context.note(Count::ClustersReceived);
        }
        Ok(())
    }
}

/// A source that was written meanwhile does not have what it told; one that waits to be hashed again tells
/// nothing. Space for the index is promised to nobody.
pub(crate) fn may_miss(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Busy => true,
        ErrorKind::Corrupt => error.message().contains(WRITTEN_MEANWHILE),
        ErrorKind::NoSpace => error.message().contains("a file of the index"),
        _ => false,
    }
}

pub(crate) const WRITTEN_MEANWHILE: &str = "the source was written meanwhile";

fn cluster_offset(index: u64, slot: usize) -> u64 {
    index * EXTENT_SIZE + (slot * CLUSTER_SIZE) as u64
}

/// A cluster of the image; behind its end there are zeros.
pub(crate) async fn read_cluster(volume: &SimVolume, offset: u64) -> Result<Vec<u8>> {
    let length = volume.size().saturating_sub(offset).min(CLUSTER_SIZE as u64);
    let mut bytes = Vec::with_capacity(CLUSTER_SIZE);
    for segment in volume.read(offset, length).await? {
        match segment {
            Segment::Data(data) => bytes.extend_from_slice(&data),
            Segment::Zeroes(count) => bytes.resize(bytes.len() + count as usize, 0),
        }
    }
    bytes.resize(CLUSTER_SIZE, 0);
    Ok(bytes)
}

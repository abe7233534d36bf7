//! Waiting for clusters that are absent. Who waits holds nothing and looks again when something came.

use super::LazyState;
use crate::pool::Pool;
use crate::state::State;
use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, ImageId, Result};
use blockyard_io::Directory;

impl<D: Directory> Pool<D> {
    /// Returns when all these clusters are present. `Io` for those that the origin cannot give, or if nothing was heard
    /// of it for as long as a read waits.
    pub(crate) async fn wait_fetched(&self, image: ImageId, mut absent: Vec<u64>) -> Result<()> {
        let started = self.lock().now_ms;
        loop {
            let listener = self.fetched_event.listen();
            let can_come = {
                let mut state = self.lock();
                state.check_open()?;
                state.retain_absent(image, &mut absent)?;
                let now = state.now_ms;
                let Some(lazy) = state.image_mut(image)?.lazy.as_deref_mut() else { return Ok(()) };
                if absent.is_empty() {
                    return Ok(());
                }
                let can_come = lazy.check_can_come(&absent, started, now);
                match can_come {
                    Ok(()) => lazy.want(&absent),
                    // An origin that gave up the image may give it again: whoever fetches asks it because of this.
                    Err(_) if lazy.broken.is_none() => lazy.want(&absent[..1]),
                    Err(_) => {}
                }
                can_come
            };
            self.demand_event.notify(usize::MAX);
            can_come?;
            listener.await;
        }
    }

    /// `Io` if the cluster is absent.
    pub(crate) fn check_present(&self, image: ImageId, cluster: u64) -> Result<()> {
        let state = self.lock();
        if state.image(image)?.lazy.is_none() {
            return Ok(());
        }
        let mut absent = vec![cluster];
        state.retain_absent(image, &mut absent)?;
        if absent.is_empty() || blockyard_io::broken("I16-tell-absent") {
            return Ok(());
        }
        let place = cluster * CLUSTER_SIZE as u64;
        Err(Error::new(ErrorKind::Io, format!("what lies at {place} has not been fetched yet")))
    }

    /// Returns when the parts of clusters at the edges of a write can be completed. Present clusters stay present, so this
    /// holds when it is the write's turn.
    pub(crate) async fn wait_for_edges(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let size = CLUSTER_SIZE as u64;
        let end = offset + length;
        let mut edges = Vec::with_capacity(2);
        edges.extend((!offset.is_multiple_of(size)).then_some(offset / size));
        edges.extend((!end.is_multiple_of(size)).then_some(end / size));
        edges.dedup();
        if edges.is_empty() || self.lock().image(image)?.lazy.is_none() {
            return Ok(());
        }
        self.wait_fetched(image, edges).await
    }
}

impl State {
    fn check_open(&self) -> Result<()> {
        match self.closing {
            true => Err(Error::new(ErrorKind::ShutDown, "the daemon is shutting down")),
            false => Ok(()),
        }
    }

    /// Keeps those of the clusters that are absent still.
    pub(super) fn retain_absent(&self, image: ImageId, clusters: &mut Vec<u64>) -> Result<()> {
        let image = self.image(image)?;
        let mut absent = Vec::new();
        if let Some(lazy) = &image.lazy {
            for cluster in clusters.iter() {
                if self.run_at(&image.record, *cluster, 1).0 == crate::extent::Slot::Zero {
                    lazy.absent_in(*cluster, 1, &mut absent);
                }
            }
        }
        *clusters = absent;
        Ok(())
    }
}

impl LazyState {
    fn check_can_come(&self, absent: &[u64], started: u64, now: u64) -> Result<()> {
        let refused = |cluster: &&u64| self.refused.rests(**cluster, now);
        let why = match (&self.broken, &self.gone, absent.iter().find(refused)) {
            (Some(reason), ..) | (None, Some(reason), _) => reason.clone(),
            (None, None, Some(_)) => "it cannot be had now; it is asked for again soon".to_owned(),
            (None, None, None) if now.saturating_sub(started.max(self.heard_ms)) > self.wait_ms => {
                "nothing comes from its origin".to_owned()
            }
            (None, None, None) => return Ok(()),
        };
        let place = absent.first().map_or(0, |cluster| cluster * CLUSTER_SIZE as u64);
        let message = format!("what lies at {place} has not been fetched yet: {why}");
        Err(Error::new(ErrorKind::Io, message))
    }

    fn want(&mut self, absent: &[u64]) {
        for cluster in absent {
            if !self.fetching.contains(cluster) {
                self.wanted.insert(*cluster);
            }
        }
    }
}

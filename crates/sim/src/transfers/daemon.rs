//! What a daemon does beside jobs, from `blockyard`'s `daemon/`: it answers calls, keeps what dependants need, fills images
//! that are used before they are there, and tells origins when they need not keep anything.

use super::job::{Job, Watched};
use super::net::Net;
use super::site::{Dependant, Site};
use super::transfer::{Kind, Transfer};
use crate::client::image_name;
use crate::context::SimVolume;
use crate::handle::SimDirectory;
use crate::manage::NOW_UNIX_S;
use crate::report::Count;
use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_pool::ImageKind;
use blockyard_transfer::{
    Allowed, Caller, DependantId, Direction, Fetching, Kept, Order as Asked, Origins, Terms, Wire,
    answer, fetch, hold_for_dependant, not_needed, release,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Goes on with what a former process had not ended.
pub(super) fn take_up(net: &Rc<Net>, site: &Rc<Site>) {
    let (orders, dependants) = (site.orders.list(), site.dependants.list());
    site.context.pool().remove_left(NOW_UNIX_S, |left| {
        let sent = orders.iter().any(|order| order.snapshot == Some(left.id));
        let kept = dependants.iter().any(|dependant| dependant.snapshot == left.id);
        left.kind == ImageKind::Snapshot && !sent && !kept
    });
    for transfer in net.transfers.borrow().iter().filter(|one| one.caller() == site.index) {
        // Its order was not written down yet.
        if !orders.iter().any(|order| order.transfer == transfer.number) {
            transfer.ended.set(true);
        }
    }
    for order in orders {
        let transfer = Rc::clone(&net.transfers.borrow()[order.transfer]);
        net.note(Count::TransfersResumed);
        transfer.ended.set(false);
        let job = Job { net: Rc::clone(net), site: Rc::clone(site), transfer };
        net.start(site.index, job.run(Some(order)));
    }
    net.start(site.index, watch_fills(Rc::clone(net), Rc::clone(site)));
    net.start(site.index, watch_debts(Rc::clone(net), Rc::clone(site)));
    site.serves.set(true);
}

/// Does what the other machine asks for.
pub(super) async fn answer_call(net: Rc<Net>, site: Rc<Site>, wire: Wire) {
    let _work = site.work();
    let pool = site.context.pool();
    let asked: RefCell<Option<Asked>> = RefCell::default();
    let since = std::cell::Cell::new(0);
    let noted = |order: &Asked| {
        net.trace(format_args!("asked for: {:?} {}", order.direction, order.image));
        let transfer = pushed(&net, order);
        since.set(transfer.as_ref().map_or(0, |transfer| transfer.event()));
        if let Some(late) = transfer.filter(|transfer| transfer.ended.get()) {
            // Sent by a process that is gone, it comes after the word that it was given up.
            late.part_may_stay.set(true);
        }
        *asked.borrow_mut() = Some(order.clone());
        // Of places there are as many as machines need here.
        Ok(())
    };
    let allowed = Allowed { push: true, pull: true, images: Vec::new() };
    let progress = Watched::new(&site, None);
    let origins = OfPeer { net: Rc::clone(&net), site: Rc::clone(&site) };
    let done = answer(wire, &pool, &allowed, NOW_UNIX_S, &progress, noted, &origins).await;
    let pushed = asked.borrow().as_ref().and_then(|asked| pushed(&net, asked));
    if let Some(transfer) = &pushed
        && !site.context.faulty.get()
    {
        match &done {
            // It dropped what came, whether the other side hears of that or not.
            Err(failed) if !failed.cut => transfer.drops_what_came(),
            _ => transfer.has_come(&net, since.get(), progress.moved.get()),
        }
    }
    match done {
        Ok(_) => {
            if let Some(transfer) = pushed {
                transfer.arrived(&net);
            }
        }
        Err(failed) => {
            let cut = if failed.cut { "cut off" } else { "failed" };
            net.trace(format_args!("answering {cut}: {}", failed.error));
        }
    }
}

fn pushed(net: &Net, asked: &Asked) -> Option<Rc<Transfer>> {
    let is_it = |transfer: &&Rc<Transfer>| {
        asked.direction == Direction::Push
            && !asked.quote
            && transfer.kind == Kind::Push
            && transfer.target_name() == asked.image.to_string()
    };
    net.transfers.borrow().iter().find(is_it).cloned()
}

/// What is kept for the other machine.
struct OfPeer {
    net: Rc<Net>,
    site: Rc<Site>,
}

impl OfPeer {
    fn find(&self, image: &ImageName, id: DependantId) -> Option<Dependant> {
        let list = self.site.dependants.list();
        list.into_iter().find(|one| one.id == id && one.source == image.to_string())
    }

    /// Takes what is kept for a dependant off the list, and puts something else on; then what was kept goes.
    async fn change(&self, id: DependantId, new: Option<Dependant>) -> Result<()> {
        let list = self.site.dependants.list();
        let gone: Vec<ImageId> =
            list.iter().filter(|one| one.id == id).map(|one| one.snapshot).collect();
        let change = |list: &mut Vec<Dependant>| {
            list.retain(|dependant| dependant.id != id);
            list.extend(new);
        };
        self.site.dependants.change(&self.site, change).await?;
        self.site.context.pool().remove_left(NOW_UNIX_S, |left| gone.contains(&left.id));
        Ok(())
    }
}

impl Origins<SimDirectory> for OfPeer {
    fn hold<'a>(&'a self, image: &'a ImageName, id: DependantId) -> Kept<'a, SimVolume> {
        Box::pin(async move {
            let _changing = self.site.change_dependants(&self.net).await;
            let pool = self.site.context.pool();
            self.site.let_go.borrow().check("peer", id)?;
            let kept = self.find(image, id).map(|kept| kept.snapshot);
            hold_for_dependant(&pool, image, kept, NOW_UNIX_S, async |_, snapshot| {
                self.net.note(Count::Holds);
                let source = image.to_string();
                self.change(id, Some(Dependant { id, source, snapshot })).await
            })
            .await
        })
    }

    fn open(&self, image: &ImageName, id: DependantId) -> Result<(SimVolume, Vec<u32>)> {
        let gone = || Error::new(ErrorKind::NotFound, "nothing is kept for this image any more");
        let found = self.find(image, id).ok_or_else(gone)?;
        let volume = self.site.context.pool().open_left_snapshot(found.snapshot)?;
        let order = (0..self.net.below(4)).map(|_| self.net.below(300) as u32).collect();
        Ok((volume, order))
    }

    fn let_go(&self, id: DependantId) -> Kept<'_, ()> {
        Box::pin(async move {
            let _changing = self.site.change_dependants(&self.net).await;
            self.site.let_go.borrow().note("peer", id);
            self.change(id, None).await?;
            self.net.note(Count::Releases);
            Ok(())
        })
    }
}

/// Starts what fills each image that is not all there.
async fn watch_fills(net: Rc<Net>, site: Rc<Site>) {
    loop {
        net.clock.sleep_ms(20 + net.below(200)).await;
        if site.stopping.get() {
            return;
        }
        for (id, origin) in site.context.pool().lazy_origins() {
            if site.filling.borrow_mut().insert(id) {
                site.context.pool().set_lazy_wait(id, 500 + net.below(20_000));
                let fill = Fill { net: Rc::clone(&net), site: Rc::clone(&site), id, origin };
                net.start(site.index, fill.run());
            }
        }
    }
}

struct Fill {
    net: Rc<Net>,
    site: Rc<Site>,
    id: ImageId,
    origin: Vec<u8>,
}

impl Fill {
    async fn run(self) {
        let _work = self.site.work();
        while !self.site.stopping.get() {
            let pool = self.site.context.pool();
            let Some(lazy) = pool.lazy_image(self.id) else { break };
            if let Some(reason) = lazy.broken {
                self.net.violated(format_args!("the list of {} is lost: {reason}", lazy.name));
                break;
            }
            if lazy.bytes_missing == 0 {
                match pool.end_lazy(self.id).await {
                    Ok(()) => self.net.note(Count::LazyFilled),
                    // The pool waits for its end.
                    Err(error) => self.judge("the end of filling", &error),
                }
                break;
            }
            self.once(lazy.bytes_missing / CLUSTER_SIZE as u64).await;
            self.net.clock.sleep_ms(20 + self.net.below(2_000)).await;
        }
        self.site.filling.borrow_mut().remove(&self.id);
    }

    async fn once(&self, missing: u64) {
        let Some(dependant) = id_of(&self.origin) else { return };
        let transfers = self.net.transfers.borrow().clone();
        let Some(transfer) = transfers.iter().find(|one| one.dependant == dependant) else {
            return self.net.violated("an image that nobody pulled is to be filled");
        };
        let Ok((wire, connection)) = self.net.dial(self.site.index) else { return };
        let pool = self.site.context.pool();
        let progress = Watched::new(&self.site, None);
        let caller = caller_of(&pool, &progress, &self.net);
        let (net, source) = (Rc::clone(&self.net), image_name(&transfer.source_name()));
        let background = move || net.calm.get() || net.one_in(3);
        let (image, source) = (self.id, &source);
        let fetching = Fetching { image, source, dependant, background: &background, missing };
        self.net.note(Count::Fetches);
        let done = fetch(wire, &caller, &fetching).await;
        let fetched = progress.moved.get().done;
        self.net.note_times(Count::ClustersFetched, fetched);
        let Err(failed) = done else { return };
        self.net.trace(format_args!("fetching {}: {}", transfer.target_name(), failed.error));
        let gone = !failed.cut && failed.error.kind() == ErrorKind::NotFound;
        if gone && pool.is_lazy(self.id) && !connection.troubled.get() {
            self.net.violated(format_args!(
                "the origin let go of what {} needs: {}",
                transfer.target_name(),
                failed.error
            ));
        }
    }

    fn judge(&self, what: &str, error: &Error) {
        let removed = !self.site.context.pool().is_lazy(self.id);
        let may_be = matches!(error.kind(), ErrorKind::Busy | ErrorKind::ShutDown);
        if !removed && !may_be && !self.site.context.faulty.get() {
            self.net.violated(format_args!("{what} failed for no reason: {error}"));
        }
    }
}

fn id_of(origin: &[u8]) -> Option<DependantId> {
    origin.try_into().ok().map(DependantId)
}

fn caller_of<'a>(
    pool: &'a std::sync::Arc<crate::context::SimPool>,
    progress: &'a Watched,
    net: &Net,
) -> Caller<'a, SimDirectory> {
    let terms = Terms { compress: net.one_in(2), ..Terms::default() };
    Caller { pool, terms, quote: false, again: false, now_unix_s: NOW_UNIX_S, progress }
}

/// Tells the other machine what it need not keep any more.
async fn watch_debts(net: Rc<Net>, site: Rc<Site>) {
    loop {
        let wait_ms = [10, 500][net.below(2) as usize];
        net.clock.sleep_ms(1 + net.below(wait_ms)).await;
        let debts = site.debts.list();
        if debts.is_empty() || site.stopping.get() {
            continue;
        }
        let _work = site.work();
        let pool = site.context.pool();
        let ordered = || {
            let (transfers, orders) = (net.transfers.borrow(), site.orders.list());
            let of_order = |order: &super::site::Order| transfers[order.transfer].dependant;
            orders.iter().map(of_order).collect::<BTreeSet<DependantId>>()
        };
        let asked = debts.iter().map(|debt| debt.dependant).collect();
        let Ok(due) = not_needed(&pool, asked, ordered, id_of).await else { continue };
        for debt in debts.iter().filter(|debt| due.contains(&debt.dependant)) {
            let Ok((wire, _)) = net.dial(site.index) else { continue };
            let progress = Watched::new(&site, None);
            let caller = caller_of(&pool, &progress, &net);
            let source = image_name(&debt.source);
            if let Err(failed) = release(wire, &caller, &source, debt.dependant).await {
                net.trace(format_args!("not told to let go: {}", failed.error));
                continue;
            }
            // What was not durable before it was told is lost now.
            if !net.calm.get() && net.one_in(2) {
                net.loses_power.set(Some(site.index));
            }
            let told = |list: &mut Vec<super::site::Debt>| {
                list.retain(|other| other.dependant != debt.dependant);
            };
            let _ = site.debts.change(&site, told).await; // it is told once more
        }
    }
}

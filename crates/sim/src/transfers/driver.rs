//! Plays one seed: two machines are made, images move, trouble comes; then all is calm, everything that was begun must end,
//! and both pools are judged.

use super::daemon::{answer_call, take_up};
use super::job::Job;
use super::net::Net;
use super::site::Site;
use super::transfer::{Kind, Transfer};
use crate::client::{Client, image_name};
use crate::context::{Context, SimPool};
use crate::executor::{Executor, Task};
use crate::model::SharedImage;
use crate::report::{Count, Play, Totals};
use crate::run::{Outcome, arm_faults, check_pool, make_pool, open_pool};
use crate::scenario::Scenario;
use crate::verify::{Survival, verify_after_open, verify_at_rest};
use crate::world::SimWorld;
use blockyard_block::Error;
use blockyard_pool::ImageKind;
use blockyard_transfer::DependantId;
use std::rc::Rc;
use std::sync::Arc;

/// Simulated time that all may take to end once it is calm.
const PATIENCE_MS: u64 = 3_600_000;
const STEPS_MAX: u64 = 30_000_000;

/// Plays one seed of transfers from beginning to end.
pub fn run_transfers(seed: u64, verbose: bool) -> Outcome {
    let dice = SimWorld::new(seed);
    let mut scenario = Scenario::draw(&dice).for_transfers();
    let sites = [("A ", 0), ("B ", 1)].map(|(label, index)| {
        let world = SimWorld::new(dice.random_below(u64::MAX));
        scenario.draw_pace(&dice);
        let context = Context::of_site(&world, scenario.clone(), verbose, label);
        Rc::new(Site::new(index, Rc::new(context)))
    });
    let executors = [&sites[0].context.world, &sites[1].context.world, &dice].map(Executor::new);
    let net = Rc::new(Net::new(dice.clone(), sites, verbose));
    net.trace(format_args!("{scenario:?}"));
    let survival = [Survival::Acknowledged; 2];
    let states = [const { State::Down { until_ms: u64::MAX } }; 2];
    let (clients, failed_syncs) = (Vec::new(), [0; 2]);
    let mut driver = Driver { net, executors, states, survival, clients, failed_syncs, idle: 0 };
    let violation = driver.play().err();
    driver.close();
    driver.outcome(violation)
}

/// What one of the machines does.
enum State {
    Down { until_ms: u64 },
    Opens(Task<Result<Arc<SimPool>, Error>>),
    Looks(Task<Result<(), String>>),
    Runs,
    Ends(Option<Task<Result<(), Error>>>),
}

struct Driver {
    net: Rc<Net>,
    executors: [Executor; 3],
    states: [State; 2],
    survival: [Survival; 2],
    /// Those of one site and one process of it each.
    clients: Vec<(usize, u64, Task<()>)>,
    /// Failed syncs of each world when its pool was opened.
    failed_syncs: [u64; 2],
    /// Nothing happened for so many moments.
    idle: u64,
}

impl Driver {
    fn play(&mut self) -> Result<(), String> {
        for site in 0..2 {
            let context = Rc::clone(&self.net.sites[site].context);
            let made = self.executors[site].spawn(make_pool(context));
            self.drive(|_| made.is_done())?;
            let made = made.take().ok_or("a pool vanished")?;
            made.map_err(|error| format!("the pool was not made: {error}"))?;
        }
        self.states = [const { State::Down { until_ms: 0 } }; 2];
        self.drive(Driver::all_run)?;
        self.make_images()?;
        self.net.calm.set(false);
        for _ in 0..4 + self.net.below(4) {
            for _ in 0..1 + self.net.below(4) {
                self.order();
            }
            self.start_clients(2);
            let steps = 500 + self.net.below(20_000);
            let first = self.steps();
            self.drive_through_trouble(first + steps)?;
        }
        self.calm_down()?;
        self.judge()
    }

    fn below(&self, bound: u64) -> u64 {
        self.net.below(bound)
    }

    fn site(&self, index: usize) -> Rc<Site> {
        Rc::clone(&self.net.sites[index])
    }

    fn steps(&self) -> u64 {
        self.executors.iter().map(Executor::steps).sum()
    }

    fn all_run(&self) -> bool {
        self.states.iter().all(|state| matches!(state, State::Runs))
    }

    /// Some images on both machines, with content.
    fn make_images(&mut self) -> Result<(), String> {
        for index in 0..2 {
            let context = Rc::clone(&self.site(index).context);
            for _ in 0..1 + self.below(2) {
                let client = Client { context: Rc::clone(&context), number: 0 };
                let made = self.executors[index].spawn(async move { client.create().await });
                self.drive(|_| made.is_done())?;
            }
        }
        for _ in 0..2 {
            self.start_clients(3);
            self.drive(Driver::clients_are_done)?;
        }
        Ok(())
    }

    /// None is left that a crash has not ended.
    fn clients_are_done(&self) -> bool {
        let ended = |index: &usize, process: &u64| self.site(*index).process.get() != *process;
        self.clients.iter().all(|(index, process, task)| task.is_done() || ended(index, process))
    }

    fn note_client(&mut self, index: usize, task: Task<()>) {
        self.clients.push((index, self.site(index).process.get(), task));
    }

    fn start_clients(&mut self, each: u64) {
        for index in 0..2 {
            if !matches!(self.states[index], State::Runs) {
                continue;
            }
            for number in 1..=each {
                let context = Rc::clone(&self.site(index).context);
                let requests = 5 + self.below(25);
                let client = Client { context, number };
                let task = self.executors[index].spawn(client.run_requests(requests));
                self.note_client(index, task);
            }
        }
    }

    /// Asks for a transfer of some image.
    fn order(&mut self) {
        let kind = [Kind::Push, Kind::Pull, Kind::Lazy, Kind::Lazy][self.below(4) as usize];
        let from = self.below(2) as usize;
        let source: Option<SharedImage> = {
            let model = self.net.sites[from].context.model.borrow();
            let usable = |image: &&SharedImage| image.borrow().is_usable();
            let images: Vec<&SharedImage> = model.images.values().filter(usable).collect();
            let count = images.len() as u64;
            (count > 0).then(|| Rc::clone(images[self.below(count) as usize]))
        };
        let Some(source) = source else { return };
        let to = self.site(1 - from);
        let number = self.net.transfers.borrow().len();
        let (name, size) = (format!("t{number}"), source.borrow().size);
        let image = to.context.model.borrow_mut().new_image(&name, size, true);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let dependant = DependantId(id);
        let transfer = Rc::new(Transfer::new(number, kind, from, &source, image, dependant));
        let caller = self.site(transfer.caller());
        if !matches!(self.states[caller.index], State::Runs) {
            return;
        }
        self.net.trace(format_args!("{kind:?} {} as {name}", source.borrow().name));
        if matches!(self.states[from], State::Runs) {
            transfer.watch_source(&self.net.sites[from]);
        }
        if matches!(self.states[1 - from], State::Runs) {
            transfer.expect_target(&to);
        }
        self.net.transfers.borrow_mut().push(Rc::clone(&transfer));
        let job = Job { net: Rc::clone(&self.net), site: caller, transfer };
        self.net.start(job.site.index, job.run(None));
    }

    /// Steps until so many were made, while trouble comes.
    fn drive_through_trouble(&mut self, until: u64) -> Result<(), String> {
        let mut next = self.steps() + self.below(3_000);
        while self.steps() < until {
            if self.steps() >= next {
                self.make_trouble();
                next = self.steps() + 200 + self.below(4_000);
            }
            self.move_on()?;
        }
        Ok(())
    }

    fn make_trouble(&mut self) {
        let index = self.below(2) as usize;
        let site = self.site(index);
        let running = matches!(self.states[index], State::Runs);
        match self.below(12) {
            0..=2 if running || self.net.one_in(3) => self.crash(index),
            3..=5 if running && site.context.faulty.get() => self.crash(index),
            3..=5 if running => arm_faults(&site.context, 150),
            6 if running => self.begin_to_end(index),
            7 => self.cancel_one(),
            8 if running => self.remove_one(index),
            _ => {}
        }
    }

    fn begin_to_end(&mut self, index: usize) {
        let site = self.site(index);
        site.context.trace("shutting down");
        site.stopping.set(true);
        site.serves.set(false);
        self.states[index] = State::Ends(None);
    }

    fn cancel_one(&mut self) {
        let transfers = self.net.transfers.borrow();
        let running: Vec<&Rc<Transfer>> = transfers.iter().filter(|one| !one.ended.get()).collect();
        if running.is_empty() {
            return;
        }
        let transfer = running[self.below(running.len() as u64) as usize];
        self.net.trace(format_args!("{} is cancelled", transfer.target_name()));
        self.net.note(Count::TransfersCancelled);
        transfer.cancelled.set(true);
    }

    /// Removes an image that came.
    fn remove_one(&mut self, index: usize) {
        let is_here = |transfer: &&Rc<Transfer>| {
            let image = transfer.image.borrow();
            let orders = &self.net.sites[transfer.caller()].orders;
            // One that could not be taken off the list comes back with the next change of that, and is done once more.
            let mut known = orders.on_disk().into_iter().chain(orders.list());
            let ordered = known.any(|order| order.transfer == transfer.number);
            transfer.to == index && transfer.shown.get() && image.is_usable() && !ordered
        };
        let transfers = self.net.transfers.borrow();
        let Some(transfer) = transfers.iter().find(is_here) else { return };
        let image = Rc::clone(&transfer.image);
        let client = Client { context: Rc::clone(&self.site(index).context), number: 9 };
        let task = self.executors[index].spawn(async move { client.remove_image(&image).await });
        drop(transfers);
        self.note_client(index, task);
    }

    /// A kill or a power cut of one of the machines, now.
    fn crash(&mut self, index: usize) {
        let is_kill = self.net.one_in(2);
        self.end_process(index, is_kill);
    }

    fn end_process(&mut self, index: usize, is_kill: bool) {
        let site = self.site(index);
        for transfer in self.net.transfers.borrow().iter() {
            if transfer.from == index {
                transfer.source_crashes(&site);
            }
            // Also of one that has come: an earlier call may go on.
            if transfer.to == index {
                transfer.part_may_stay.set(true);
            }
        }
        site.context.set_pool(None);
        let failed_syncs = site.context.world.counters().failed_syncs;
        self.net.forget_process(index);
        site.begin_process();
        if is_kill {
            site.context.trace("KILL");
            self.executors[index].kill();
        } else {
            site.context.trace("POWER CUT");
            self.executors[index].cut_power();
            self.survival[index] = Survival::Flushed;
        }
        if failed_syncs > self.failed_syncs[index] {
            self.survival[index] = Survival::Flushed;
        }
        self.failed_syncs[index] = failed_syncs;
        site.context.faulty.set(false);
        let down_ms = [1, 200, 90_000][self.below(3) as usize];
        let until_ms = self.net.clock.now_ms() + self.below(down_ms);
        self.states[index] = State::Down { until_ms };
    }

    /// One step of something, or of time.
    fn move_on(&mut self) -> Result<(), String> {
        if let Some(violation) = self.net.violation() {
            return Err(violation);
        }
        if let Some(index) = self.net.loses_power.take() {
            self.end_process(index, false);
        }
        for index in 0..2 {
            self.tend(index)?;
        }
        while let Some((place, task)) = self.net.next_task() {
            drop(self.executors[place].spawn(task));
        }
        while let Some((index, wire)) = self.net.next_call() {
            let site = self.site(index);
            if site.serves.get() {
                let answer = answer_call(Rc::clone(&self.net), site, wire);
                drop(self.executors[index].spawn(answer));
            }
        }
        let first = self.below(3) as usize;
        let stepped = (first..first + 3).any(|place| self.executors[place % 3].step());
        let pace = self.net.sites[0].context.scenario.steps_per_tick;
        if !stepped || self.net.one_in(4 * pace) {
            self.idle = if stepped { 0 } else { self.idle + 1 };
            self.pass_time();
        }
        Ok(())
    }

    /// Lets a machine go on to its next state.
    fn tend(&mut self, index: usize) -> Result<(), String> {
        let site = self.site(index);
        match &mut self.states[index] {
            State::Down { until_ms } if self.net.clock.now_ms() >= *until_ms => {
                let opens = open_pool(Rc::clone(&site.context));
                self.states[index] = State::Opens(self.executors[index].spawn(opens));
            }
            State::Opens(task) if task.is_done() => match task.take() {
                Some(Ok(pool)) => self.look(index, pool),
                Some(Err(error)) => return Err(format!("the pool does not open: {error}")),
                None => return Err("opening vanished".to_owned()),
            },
            State::Looks(task) if task.is_done() => {
                task.take().ok_or("verification vanished")??;
                self.serve(index);
            }
            State::Ends(ending) => match ending {
                Some(task) if task.is_done() => {
                    let ended = task.take().ok_or("a shutdown vanished")?;
                    if let Err(error) = ended
                        && !site.context.faulty.get()
                    {
                        return Err(format!("shutdown failed: {error}"));
                    }
                    self.net.note(Count::CleanShutdowns);
                    self.crash(index);
                }
                None if site.busy.get() == 0 => {
                    site.context.closing.set(true);
                    let pool = site.context.pool();
                    let ends = self.executors[index].spawn(async move { pool.shutdown().await });
                    self.states[index] = State::Ends(Some(ends));
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// The pool is open: what has it?
    fn look(&mut self, index: usize, pool: Arc<SimPool>) {
        let site = self.site(index);
        site.context.trace("opened");
        site.begin_process();
        pool.tick(self.net.clock.now_ms());
        let (sync, commit, keep) = (Arc::clone(&pool), Arc::clone(&pool), Arc::clone(&pool));
        drop(self.executors[index].spawn(async move { sync.run_sync().await }));
        drop(self.executors[index].spawn(async move { commit.run_commit().await }));
        drop(self.executors[index].spawn(async move { keep.run_maintenance().await }));
        let reclaim = Arc::clone(&pool);
        drop(self.executors[index].spawn(async move { reclaim.run_reclaim().await }));
        site.context.set_pool(Some(pool));
        self.failed_syncs[index] = site.context.world.counters().failed_syncs;
        for transfer in self.net.transfers.borrow().iter().filter(|one| one.to == index) {
            transfer.target_is_back(&self.net);
        }
        let looks = verify_after_open(Rc::clone(&site.context), self.survival[index]);
        self.states[index] = State::Looks(self.executors[index].spawn(looks));
    }

    fn serve(&mut self, index: usize) {
        let site = self.site(index);
        for transfer in self.net.transfers.borrow().iter() {
            if transfer.to == index {
                transfer.target_was_verified(&self.net);
            } else {
                transfer.watch_source(&site);
            }
        }
        self.survival[index] = Survival::Acknowledged;
        take_up(&self.net, &site);
        self.states[index] = State::Runs;
    }

    fn pass_time(&mut self) {
        let now = self.net.clock.now_ms();
        let most = if self.idle > 20 { 1_000 } else { 60 };
        let next = self.net.clock.next_ms().map_or(u64::MAX, |next| next.max(now + 1));
        let now = (now + 1 + self.below(most)).min(next);
        for site in &self.net.sites {
            site.context.now_ms.set(now);
            if let Some(pool) = site.context.pool_if_open() {
                pool.tick(now);
            }
        }
        self.net.clock.pass_to(now);
    }

    fn drive(&mut self, done: impl Fn(&Driver) -> bool) -> Result<(), String> {
        let (first_ms, first_step) = (self.net.clock.now_ms(), self.steps());
        while !done(self) {
            self.move_on()?;
            let waited_ms = self.net.clock.now_ms() - first_ms;
            if waited_ms > PATIENCE_MS || self.steps() - first_step > STEPS_MAX {
                return Err(self.describe_hang());
            }
        }
        self.net.violation().map_or(Ok(()), Err)
    }

    fn describe_hang(&self) -> String {
        let waits: Vec<String> = (self.net.transfers.borrow().iter())
            .filter(|transfer| !transfer.ended.get())
            .map(|transfer| format!("{:?} as {}", transfer.kind, transfer.target_name()))
            .collect();
        let of_site = |site: &Rc<Site>| {
            let pool = site.context.pool_if_open();
            let lazy = pool.map(|pool| pool.lazy_images());
            format!("{} at work, {} debts, {lazy:?}", site.busy.get(), site.debts.list().len())
        };
        let sites: Vec<String> = self.net.sites.iter().map(of_site).collect();
        format!("it does not end: {waits:?}; {sites:?}")
    }

    /// Nothing bad comes any more: everything that was begun ends.
    fn calm_down(&mut self) -> Result<(), String> {
        self.net.trace("all is calm from now on");
        self.net.calm.set(true);
        for index in 0..2 {
            if self.site(index).context.faulty.get() {
                self.crash(index);
            }
        }
        self.drive(Driver::all_run)?;
        self.drive(Driver::is_quiet)
    }

    fn is_quiet(&self) -> bool {
        let idle = |site: &Rc<Site>| {
            let filled = || site.context.pool().lazy_origins().is_empty();
            site.busy.get() == 0 && site.debts.list().is_empty() && filled()
        };
        self.all_run()
            && self.clients_are_done()
            && self.net.transfers.borrow().iter().all(|transfer| transfer.ended.get())
            && self.net.sites.iter().all(idle)
    }

    fn judge(&mut self) -> Result<(), String> {
        for transfer in self.net.transfers.borrow().iter() {
            let pool = self.net.sites[transfer.to].context.pool();
            let name = image_name(&transfer.target_name());
            // It came although the user had given it up, or nobody heard of it.
            if pool.image(&name).is_ok() {
                transfer.arrived(&self.net);
            }
            transfer.does_not_come(&self.net);
        }
        for index in 0..2 {
            self.judge_left(index)?;
            let context = Rc::clone(&self.site(index).context);
            let looks = self.executors[index].spawn(verify_at_rest(context));
            self.drive(|_| looks.is_done())?;
            looks.take().ok_or("verification vanished")??;
        }
        for index in 0..2 {
            let context = Rc::clone(&self.site(index).context);
            let pool = context.pool();
            self.site(index).stopping.set(true);
            let ends = self.executors[index].spawn(async move { pool.shutdown().await });
            self.drive(|_| ends.is_done())?;
            let ended = ends.take().ok_or("a shutdown vanished")?;
            ended.map_err(|error| format!("shutdown failed: {error}"))?;
            context.set_pool(None);
            self.executors[index].kill();
            let checks = self.executors[index].spawn(check_pool(context));
            self.drive(|_| checks.is_done())?;
            checks.take().ok_or("a check vanished")??;
        }
        Ok(())
    }

    /// Nothing of a transfer is left but what nobody could have removed.
    fn judge_left(&mut self, index: usize) -> Result<(), String> {
        let site = self.site(index);
        let pool = site.context.pool();
        let transfers = self.net.transfers.borrow();
        for left in pool.left_images() {
            let of_transfer = |transfer: &&Rc<Transfer>| {
                transfer.to == index && transfer.target_name() == left.name.to_string()
            };
            let may_stay = left.kind == ImageKind::Writable
                && transfers.iter().find(of_transfer).is_some_and(|one| {
                    // Removed, its name is free again for what was cut off before.
                    one.part_may_stay.get() || one.image.borrow().disturbances > 0
                });
            if !may_stay {
                return Err(format!("{}{left:?} is left behind", ["A ", "B "][index]));
            }
            self.net.note(Count::PartsLeft);
        }
        if !site.dependants.list().is_empty() {
            return Err("something is kept for a dependant that needs nothing".to_owned());
        }
        pool.remove_left(0, |_| true);
        let hidden = pool.inspect().images.len() - pool.images().len();
        match hidden {
            0 => Ok(()),
            count => Err(format!("{count} hidden images are left that nobody knows")),
        }
    }

    fn close(&mut self) {
        for site in &self.net.sites {
            site.context.set_pool(None);
        }
        for (place, world) in
            [&self.net.sites[0].context.world, &self.net.sites[1].context.world, &self.net.dice]
                .into_iter()
                .enumerate()
        {
            self.executors[place] = Executor::new(world);
        }
        while self.net.next_task().is_some() || self.net.next_call().is_some() {}
    }

    fn outcome(&self, violation: Option<String>) -> Outcome {
        let mut totals = Totals::of(Play::Transfers);
        totals.add(&self.net.totals());
        let mut digest = 0u64;
        for site in &self.net.sites {
            totals.add(&site.context.totals.borrow());
            totals.note_world(&site.context.world.counters());
            digest = digest.wrapping_mul(31).wrapping_add(site.context.digest());
        }
        Outcome { totals, violation, digest }
    }
}

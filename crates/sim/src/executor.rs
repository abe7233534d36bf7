//! Runs tasks and I/O on one thread in an order drawn from the world's seed.
//!
//! Each step polls one random runnable task or moves one random operation on. Time does not pass
//! by itself: when nothing can run, the harness tells the engine a later time and goes on.

use crate::world::SimWorld;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The answer of a spawned future, once it is there.
pub struct Task<T> {
    answer: Rc<RefCell<Option<T>>>,
}

impl<T> Task<T> {
    pub fn is_done(&self) -> bool {
        self.answer.borrow().is_some()
    }

    /// The answer; `None` if it is not there yet, was taken, or the task vanished in a crash.
    pub fn take(&self) -> Option<T> {
        self.answer.borrow_mut().take()
    }
}

/// Tasks that are woken, each once, in the order of waking.
type Ready = Arc<Mutex<Vec<usize>>>;

struct TaskWaker {
    index: usize,
    /// Crashes replace the queue, so wakers of vanished tasks reach nobody.
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.index) {
            ready.push(self.index);
        }
    }
}

struct Running {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

/// One process of the simulated machine: its tasks.
pub struct Executor {
    world: SimWorld,
    tasks: Vec<Option<Running>>,
    ready: Ready,
    /// Of 8 steps with both choices, this many poll a task.
    task_share: u64,
    steps: u64,
}

impl Executor {
    pub fn new(world: &SimWorld) -> Executor {
        Executor {
            world: world.clone(),
            tasks: Vec::new(),
            ready: Ready::default(),
            task_share: 1 + world.random_below(7),
            steps: 0,
        }
    }

    /// Adds a task; it runs when a step picks it.
    pub fn spawn<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let answer = Rc::new(RefCell::new(None));
        let task = Task { answer: Rc::clone(&answer) };
        let index = self.tasks.len();
        let waker = Waker::from(Arc::new(TaskWaker { index, ready: Arc::clone(&self.ready) }));
        waker.wake_by_ref();
        let future = Box::pin(async move {
            let value = future.await;
            *answer.borrow_mut() = Some(value);
        });
        self.tasks.push(Some(Running { future, waker }));
        task
    }

    /// Polls one task or moves one operation on; false if neither can be done.
    pub fn step(&mut self) -> bool {
        let runnable = self.ready.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let in_flight = self.world.pending() as u64;
        if runnable + in_flight == 0 {
            return false;
        }
        self.steps += 1;
        let poll = in_flight == 0 || self.world.random_below(8) < self.task_share;
        if runnable > 0 && poll {
            let pick = self.world.random_below(runnable) as usize;
            self.poll(pick);
        } else {
            self.world.advance();
        }
        true
    }

    fn poll(&mut self, pick: usize) {
        let index = self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(pick);
        let Some(running) = &mut self.tasks[index] else { return };
        let waker = running.waker.clone();
        let polled = running.future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled == Poll::Ready(()) {
            self.tasks[index] = None;
        }
    }

    /// Steps until `done` holds (true) or nothing can run (false).
    pub fn run_until(&mut self, mut done: impl FnMut() -> bool) -> bool {
        loop {
            if done() {
                return true;
            }
            if !self.step() {
                return done();
            }
        }
    }

    /// Steps until nothing can run: every task waits for time or for another task.
    pub fn run_until_idle(&mut self) {
        while self.step() {}
    }

    /// At most `steps` steps; false if nothing can run any more.
    pub fn run_steps(&mut self, steps: u64) -> bool {
        (0..steps).all(|_| self.step())
    }

    /// Runs until this future is ready, other tasks beside it. Panics on a deadlock.
    pub fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let task = self.spawn(future);
        self.run_until(|| task.is_done());
        task.take().expect("deadlock: the future is not ready and nothing can run")
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Tasks that have not finished.
    pub fn unfinished(&self) -> usize {
        self.tasks.iter().flatten().count()
    }

    /// SIGKILL: all tasks vanish, operations in flight happen in part.
    pub fn kill(&mut self) {
        self.end_process();
        self.world.kill();
    }

    /// The machine loses power.
    pub fn cut_power(&mut self) {
        self.end_process();
        self.world.cut_power();
    }

    fn end_process(&mut self) {
        self.world.end_process();
        self.ready = Ready::default();
        self.tasks.clear();
    }
}

impl Drop for Executor {
    /// After a panic the tasks are left alone: dropping what a bug left half done could panic again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(std::mem::take(&mut self.tasks));
        }
    }
}

#[cfg(test)]
mod tests;

//! The runtime that carries conversations with peers: threads of its own, because encrypting is work that must not hold
//! up the control API. Made when the first peer is called or may call.

use blockyard_block::{Error, ErrorKind, Result};
use std::sync::{Mutex, PoisonError};
use tokio::runtime::{Builder, Handle, Runtime};

const THREADS: usize = 2;

/// None before it is needed, and after it was shut down.
#[derive(Default)]
pub(crate) struct PeerRuntime {
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Unneeded,
    Runs(Runtime),
    Ended,
}

impl PeerRuntime {
    pub(crate) fn handle(&self) -> Result<Handle> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Unneeded = *state {
            let made = Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("peers")
                .enable_all()
                .build()
                .map_err(|error| Error::io("cannot start the runtime for peers", error))?;
            *state = State::Runs(made);
        }
        match &*state {
            State::Runs(runtime) => Ok(runtime.handle().clone()),
            _ => Err(Error::new(ErrorKind::ShutDown, "the daemon is going away")),
        }
    }

    /// Ends all conversations, and waits for nothing.
    pub(crate) fn shut_down(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Runs(runtime) = std::mem::replace(&mut *state, State::Ended) {
            runtime.shutdown_background();
        }
    }
}

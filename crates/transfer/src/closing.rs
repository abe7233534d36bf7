//! Closing a connection that its peer keeps open: HTTP/2 would go on with it as long as something waits to be taken, which a
//! peer that takes nothing can make last for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// A connection on which nobody calls, or whose conversation has ended, is closed after this long.
pub(crate) const QUIET_MAX: Duration = Duration::from_secs(10);

/// What keeps a connection open until it is dropped.
pub(crate) struct Hold {
    _open: oneshot::Sender<()>,
}

impl Hold {
    pub(crate) fn new() -> (Hold, Held) {
        let (open, dropped) = oneshot::channel();
        (Hold { _open: open }, Held { dropped: Some(dropped) })
    }

    /// The conversation has ended: what was said last is still to be taken.
    pub(crate) async fn release(self) {
        tokio::time::sleep(QUIET_MAX).await;
    }
}

/// The connection's side of a [`Hold`].
pub(crate) struct Held {
    /// None when that was seen.
    dropped: Option<oneshot::Receiver<()>>,
}

impl Held {
    /// To be asked before anything is read or written: whoever polls is woken at the end.
    pub(crate) fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(dropped) = &mut self.dropped
            && let Poll::Pending = Pin::new(dropped).poll(context)
        {
            return Ok(());
        }
        self.dropped = None;
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

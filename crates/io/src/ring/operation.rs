//! One read, write or sync as a future. Dropped before it is done, it leaves the operation to the ring,
//! which keeps the memory until the kernel is through with it.

use super::Core;
use super::table::{Held, outcome};
use blockyard_block::{Buffer, BufferMut};
use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

struct Operation {
    core: Rc<Core>,
    /// None once the result was taken.
    index: Option<u32>,
}

impl Future for Operation {
    type Output = (i32, Held);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(i32, Held)> {
        let index = self.index.expect("not polled again after it was ready");
        let done = self.core.table.borrow_mut().poll(index, context.waker());
        match done {
            Some(done) => {
                self.index = None;
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.core.table.borrow_mut().abandon(index);
        }
    }
}

impl Core {
    async fn run(self: &Rc<Self>, held: Held, offset: u64) -> io::Result<(i32, Held)> {
        let index = self.start(held, offset)?;
        Ok(Operation { core: Rc::clone(self), index: Some(index) }.await)
    }

    /// Reads at `offset` into the buffer from byte `from` on; tells how many bytes came. If the ring
    /// refuses, the buffer is a new one.
    pub(crate) async fn read(
        self: &Rc<Self>,
        file: &Arc<File>,
        offset: u64,
        buffer: BufferMut,
        from: usize,
    ) -> (io::Result<usize>, BufferMut) {
        let length = buffer.len();
        let held = Held::Read { file: Arc::clone(file), buffer, from };
        match self.run(held, offset).await {
            Ok((result, Held::Read { buffer, .. })) => (outcome(result), buffer),
            Ok(_) => unreachable!("a read holds what it was given"),
            Err(error) => (Err(error), BufferMut::zeroed(length)),
        }
    }

    /// Writes the data from byte `from` on at `offset`; tells how many bytes were taken.
    pub(crate) async fn write(
        self: &Rc<Self>,
        file: &Arc<File>,
        offset: u64,
        data: Buffer,
        from: usize,
    ) -> io::Result<usize> {
        let held = Held::Write { file: Arc::clone(file), data, from };
        outcome(self.run(held, offset).await?.0)
    }

    /// fdatasync.
    pub(crate) async fn sync(self: &Rc<Self>, file: &Arc<File>) -> io::Result<()> {
        let held = Held::Sync { file: Arc::clone(file) };
        outcome(self.run(held, 0).await?.0).map(drop)
    }
}

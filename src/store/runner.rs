//! The runtime that a store's requests run on, while their callers wait.

use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

use crate::model::Fault;

/// One thread of its own, so that whoever calls, be it a worker of another runtime, may wait as for a disk.
pub(super) struct Runner(Option<Runtime>);

impl Runner {
    pub(super) fn start() -> Result<Runner, Fault> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("store").enable_all().build();
        let runtime =
            runtime.map_err(|error| Fault::stop(format!("the store's thread can't be started: {error}")))?;
        Ok(Runner(Some(runtime)))
    }

    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Fault> {
        let ended = || Fault::stop("the store's thread has ended before its work");
        let runtime = self.0.as_ref().ok_or_else(ended)?;
        // Not a channel of tokio: waiting on those panics inside of a runtime.
        let (sender, receiver) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver.recv().map_err(|_| ended())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // To wait for a runtime inside of another one panics. Nothing is under way here: who called has waited for it.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

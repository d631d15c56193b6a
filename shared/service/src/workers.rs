//! The threads that serve connections. Each has a runtime of its own, and a connection stays where it began: handing a
//! request from thread to thread costs more than most requests do.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::yield_now;

/// Threads that run tasks until they are dropped, and what is then unfinished with them.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    /// Each of its tasks has a clone.
    tasks: Arc<()>,
    /// Dropped to end it.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts as many threads as `count`, at least one.
    ///
    /// # Errors
    /// The system has no more of them, or of file descriptors.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(|_| Worker::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Runs `task` on the thread that has the fewest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let worker =
            self.0.iter().min_by_key(|worker| Arc::strong_count(&worker.tasks)).expect("there is at least one");
        let counted = Arc::clone(&worker.tasks);
        worker.runtime.spawn(async move {
            task.await;
            drop(counted);
        });
    }

    /// Returns when each thread has looked at what had arrived for its tasks.
    pub async fn catch_up(&self) {
        for worker in &self.0 {
            // What yields goes on once its runtime has asked the system, and after what that has woken.
            let looked = worker.runtime.spawn(async {
                yield_now().await;
                yield_now().await;
            });
            // It ends unfinished with its thread alone, which then has no tasks.
            let _ = looked.await;
        }
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("worker".to_owned());
        let thread = thread.spawn(move || drop(runtime.block_on(ended)))?;
        Ok(Self { runtime: handle, tasks: Arc::new(()), end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // First all are told, then all are waited for.
        self.0.iter_mut().for_each(|worker| drop(worker.end.take()));
        for thread in self.0.iter_mut().filter_map(|worker| worker.thread.take()) {
            // A panic is caught by its task, and logged.
            let _ = thread.join();
        }
    }
}

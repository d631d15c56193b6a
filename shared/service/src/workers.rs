//! The threads that serve connections. Each has its own runtime, and a connection stays on its thread: passing a
//! request between threads costs more than most requests do.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::yield_now;

thread_local! {
    /// This thread's clone of its tasks' count.
    static TASKS: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };
}

/// Tells whether the calling thread is a worker with a single task.
pub(crate) fn serves_one() -> bool {
    TASKS.with_borrow(|tasks| tasks.as_ref().is_some_and(|tasks| Arc::strong_count(tasks) == BESIDE_TASKS + 1))
}

/// Threads that run tasks. Dropping them drops the unfinished tasks too.
#[derive(Default)]
pub struct Workers(Vec<Worker>);

/// The clones of a worker's count that are not its tasks'.
const BESIDE_TASKS: usize = 2;

struct Worker {
    runtime: Handle,
    /// Counts the tasks: each has a clone, and the thread has one.
    tasks: Arc<()>,
    /// Ends the thread when dropped.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// The system has no more threads or file descriptors.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(|_| Worker::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Returns the number of threads.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Runs a task on the thread that has the fewest of them. `task` gets the number of that thread.
    pub fn spawn<T: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(usize) -> T) {
        let workers = self.0.iter().enumerate();
        let fewest = workers.min_by_key(|(_, worker)| Arc::strong_count(&worker.tasks));
        let (number, worker) = fewest.expect("there is at least one");
        let task = task(number);
        let counted = Arc::clone(&worker.tasks);
        worker.runtime.spawn(async move {
            task.await;
            drop(counted);
        });
    }

    /// Returns when each thread has polled the system for data and run the tasks that were waiting for it.
    pub async fn catch_up(&self) {
        for worker in &self.0 {
            // A yielded task continues after its runtime has polled the system and run the tasks that this woke.
            let looked = worker.runtime.spawn(async {
                yield_now().await;
                yield_now().await;
            });
            // It fails only if its thread has ended, which then has no tasks.
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
        let tasks = Arc::new(());
        let own = Arc::clone(&tasks);
        let thread = thread.spawn(move || {
            TASKS.set(Some(own));
            drop(runtime.block_on(ended));
        })?;
        Ok(Self { runtime: handle, tasks, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Signals all threads before it waits for any.
        self.0.iter_mut().for_each(|worker| drop(worker.end.take()));
        for thread in self.0.iter_mut().filter_map(|worker| worker.thread.take()) {
            // The task catches a panic, and the hook logs it.
            let _ = thread.join();
        }
    }
}

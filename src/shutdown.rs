//! How the process ends: a first signal asks its tasks to finish, a second one does not wait.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The exit status of a process that was told twice to stop.
const TOLD_TWICE: i32 = 130;

/// Begins to listen for SIGTERM and SIGINT. The first cancels the token; the second ends the
/// process at once, which loses nothing: what was not committed comes again.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let soft = token.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping; a second signal stops at once");
        soft.cancel();
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("stopped by a second signal");
        std::process::exit(TOLD_TWICE);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// The long-running tasks of the process. They live and end together: when one dies, the others
/// are asked to finish.
pub struct Tasks {
    shutdown: CancellationToken,
    running: JoinSet<Ended>,
    names: HashMap<Id, &'static str>,
}

/// A task ended that should have run until the shutdown.
#[derive(Debug, thiserror::Error)]
#[error("the {name} stopped: {reason}")]
pub struct TaskDied {
    /// Which.
    pub name: &'static str,
    /// Its error, or its panic.
    pub reason: String,
}

impl Tasks {
    /// No tasks yet. `shutdown` is cancelled when one of them dies.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, running: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts a task that runs until the shutdown. Its name completes the sentence "the … stopped".
    pub fn spawn<E>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let handle = self.running.spawn(async move { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Waits until every task has ended. The error is the first that died.
    pub async fn wait(mut self) -> Result<(), TaskDied> {
        let mut first = None;
        while let Some(ended) = self.running.join_next_with_id().await {
            if let Some(died) = self.death(ended) {
                tracing::error!("{died}; stopping the others");
                first.get_or_insert(died);
                self.shutdown.cancel();
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn death(&self, ended: Result<(Id, Ended), JoinError>) -> Option<TaskDied> {
        let (id, reason) = match ended {
            Ok((_, Ok(()))) if self.shutdown.is_cancelled() => return None,
            Ok((id, Ok(()))) => (id, "it ended by itself".to_owned()),
            Ok((id, Err(error))) => (id, error.to_string()),
            Err(error) => (error.id(), describe(error)),
        };
        let name = self.names.get(&id).copied().unwrap_or("task");
        Some(TaskDied { name, reason })
    }
}

/// What a task that did not return died of.
pub(crate) fn describe(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("panic: {}", panic_text(panic.as_ref())),
        Err(_) => "it was aborted".to_owned(),
    }
}

/// The text of a panic, if it has one.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn until_told(shutdown: CancellationToken) -> Result<(), Infallible> {
        shutdown.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn tasks_that_end_after_the_shutdown_are_no_trouble() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("intake", until_told(shutdown.clone()));
        tasks.spawn("courier", until_told(shutdown.clone()));
        shutdown.cancel();
        tasks.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_stops_the_others_and_is_told() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("intake", until_told(shutdown.clone()));
        tasks.spawn("courier", async { panic!("out of cheese") as Result<(), Infallible> });
        let died = tasks.wait().await.unwrap_err();
        assert_eq!(died.to_string(), "the courier stopped: panic: out of cheese");
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn an_error_or_an_early_end_is_a_death_too() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("api", async { Err(io::Error::other("address in use")) });
        assert_eq!(tasks.wait().await.unwrap_err().to_string(), "the api stopped: address in use");

        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("sweep", async { Ok::<_, Infallible>(()) });
        let died = tasks.wait().await.unwrap_err();
        assert_eq!(died.to_string(), "the sweep stopped: it ended by itself");
    }
}

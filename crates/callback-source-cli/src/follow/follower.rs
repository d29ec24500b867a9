//! Tasks that keep the targets equal to the list, one for each target.

use std::{sync::Arc, time::Duration};

use callback_source::AllowList;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    command::OnChange,
    goal::{Goal, Step},
    status::FollowStatus,
    target::{Change, Mode, Target, TargetError},
};

/// Running tasks. Each target has its own task, so that a target that hangs does not delay the other targets.
#[derive(Debug)]
pub(crate) struct Follower {
    status: FollowStatus,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Follower {
    /// Starts the tasks that follow a list.
    pub(crate) fn start(
        list: &AllowList,
        targets: Vec<Box<dyn Target>>,
        on_change: Option<String>,
        allow_empty: bool,
    ) -> Self {
        let status = FollowStatus::new(targets.iter().map(|target| target.name()));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let changes = on_change.map(|command| {
            let (changes, changed) = watch::channel(0);
            tasks.spawn(OnChange::new(command).follow(changed));
            changes
        });
        for (at, target) in targets.into_iter().enumerate() {
            let changes = changes.clone().filter(|_| target.runs_command());
            let task = Task {
                list: list.clone(),
                at,
                status: status.clone(),
                changes,
                allow_empty,
                has_synced: false,
                log: TargetLog::new(target.name()),
                target,
            };
            tasks.spawn(task.run(stopped.clone()));
        }
        Self {
            status,
            stop,
            tasks,
        }
    }

    pub(crate) fn status(&self) -> FollowStatus {
        self.status.clone()
    }

    /// Stops the tasks, and waits until the writes in progress and the `--on-change` command after them have ended.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        // If a task panicked, the panic hook has already reported the panic.
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Task {
    list: AllowList,
    target: Box<dyn Target>,
    at: usize,
    status: FollowStatus,
    changes: Option<watch::Sender<u64>>,
    allow_empty: bool,
    has_synced: bool,
    log: TargetLog,
}

impl Task {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        // The task subscribes before it first reads the set, so that it misses no change.
        let mut changes = self.list.changes();
        loop {
            let goal = current_goal(&self.list);
            self.sync(Arc::clone(&goal)).await;
            let list = &self.list;
            let changed = async {
                // The on-demand refreshes of `serve` also publish sets that have not changed.
                while changes.next_set().await.is_attempted() && current_goal(list) == goal {}
            };
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = changed => {}
                // The target is read regularly, since other programs may have changed it.
                () = sleep(BETWEEN_CHECKS) => {}
            }
        }
    }

    async fn sync(&mut self, goal: Arc<Goal>) {
        match goal.step(self.allow_empty) {
            Step::Wait => return,
            Step::Keep => {
                self.log.kept();
                self.status.kept(self.at);
                return;
            }
            Step::Sync => {}
        }
        let mut sync = self.target.sync(goal, Mode::Write);
        let synced = match timeout(SLOW, &mut sync).await {
            Ok(synced) => synced,
            Err(_) => {
                let slow = TargetError::new(format!("it has not responded for {SLOW:?}"));
                self.status.failed(self.at, &slow.to_string());
                self.log.failed(&slow);
                // A write to a disk cannot be cancelled, and another write would not be faster.
                sync.await
            }
        };
        match synced {
            Ok(change) => {
                let is_change = !change.is_none();
                self.log.synced(&change);
                self.status.synced(self.at, change.members, is_change);
                // The command runs at the start as well: an earlier process may have ended before its command ran.
                if (is_change || !self.has_synced)
                    && let Some(changes) = &self.changes
                {
                    changes.send_modify(|changes| *changes += 1);
                }
                self.has_synced = true;
            }
            Err(error) => {
                self.status.failed(self.at, &error.to_string());
                self.log.failed(&error);
            }
        }
    }
}

fn current_goal(list: &AllowList) -> Arc<Goal> {
    let now = Instant::now().into_std();
    Arc::new(Goal::new(&list.snapshot(), now))
}

/// Logger of a target. It logs every change, and logs problems at a limited rate.
struct TargetLog {
    name: String,
    failing: Option<(String, Instant)>,
    is_kept: bool,
}

impl TargetLog {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            failing: None,
            is_kept: false,
        }
    }

    fn synced(&mut self, change: &Change) {
        self.is_kept = false;
        if self.failing.take().is_some() {
            info!(follow = self.name, "the target is up to date again");
        }
        if change.is_none() {
            debug!(follow = self.name, members = change.members, "no change");
            return;
        }
        info!(
            follow = self.name,
            added = ?change.added,
            removed = ?change.removed,
            members = change.members,
            "target changed"
        );
    }

    fn kept(&mut self) {
        if !self.is_kept {
            error!(
                follow = self.name,
                "no address is admitted any more; the target was left unchanged, because `--allow-empty` is not given"
            );
        }
        self.is_kept = true;
    }

    fn failed(&mut self, error: &TargetError) {
        let now = Instant::now();
        let text = error.to_string();
        let is_known = |(known, logged): &(String, Instant)| {
            *known == text && now.saturating_duration_since(*logged) < BETWEEN_WARNINGS
        };
        if self.failing.as_ref().is_some_and(is_known) {
            return;
        }
        warn!(follow = self.name, "target is not up to date: {text}");
        self.failing = Some((text, now));
    }
}

/// Pause between two reads of a target. An nftables set that another program has flushed should be restored within 5 s.
const BETWEEN_CHECKS: Duration = Duration::from_secs(2);
const SLOW: Duration = Duration::from_secs(15);
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10 * 60);

//! `--once` and `--dry-run`: a single update of all targets.

use std::{fmt::Write, sync::Arc};

use callback_source::AllowList;
use tokio::time::Instant;

use super::{
    command::OnChange,
    goal::{Goal, Step},
    target::{Mode, Target},
};
use crate::{outcome::Outcome, output};

/// Updates the targets once, or computes the differences for a dry run. Returns the outcome and the differences as
/// text.
pub(crate) async fn once(
    list: &AllowList,
    mut targets: Vec<Box<dyn Target>>,
    on_change: Option<String>,
    allow_empty: bool,
    mode: Mode,
) -> (Outcome, String) {
    list.attempted().await;
    let goal = Arc::new(Goal::new(&list.snapshot(), Instant::now().into_std()));
    if goal.step(allow_empty) != Step::Sync {
        let text = "no address is admitted; the targets keep what they have";
        output::message("error", text);
        output::message("hint", "empty them with `--allow-empty`");
        return (Outcome::Incomplete, String::new());
    }
    let mut is_complete = goal.is_resolved();
    let (mut is_changed, mut runs_command) = (false, false);
    let mut differences = String::new();
    for target in &mut targets {
        match target.sync(Arc::clone(&goal), mode).await {
            Ok(change) => {
                is_changed |= !change.is_none();
                runs_command |= !change.is_none() && target.runs_command();
                // Writing to a string cannot fail.
                let _ = writeln!(differences, "{}", target.name());
                for added in &change.added {
                    let _ = writeln!(differences, "+ {added}");
                }
                for removed in &change.removed {
                    let _ = writeln!(differences, "- {removed}");
                }
                if change.rewritten {
                    let _ = writeln!(differences, "~ the text differs");
                }
                if change.is_none() {
                    let _ = writeln!(differences, "  no difference");
                }
            }
            Err(error) => {
                is_complete = false;
                output::message(
                    "error",
                    format_args!("{}: {}", target.name(), error.problem),
                );
                if let Some(hint) = error.hint {
                    output::message("hint", hint);
                }
            }
        }
    }
    if mode == Mode::Write
        && runs_command
        && let Some(command) = on_change
        && !OnChange::new(command).run().await
    {
        is_complete = false;
        let text = "`--on-change` failed, and the next call repeats it only after another change";
        output::message("error", text);
        output::message("hint", "run the command by hand");
    }
    let outcome = match (is_complete, mode) {
        (false, _) => Outcome::Incomplete,
        (true, Mode::DryRun) if is_changed => Outcome::No,
        (true, _) => Outcome::Yes,
    };
    (outcome, differences)
}

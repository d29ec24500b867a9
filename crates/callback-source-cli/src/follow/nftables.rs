//! `nftables:inet/TABLE/SET`: the elements of two sets, one for each family.
//!
//! | trap | remedy |
//! |---|---|
//! | a timeout of zero or with a fraction creates a permanent element | whole seconds, rounded up, at least 1; each element is read back |
//! | adding an element again does not renew it | add, delete and add in one transaction |
//! | deleting an element that has just expired fails the whole transaction | each element is added before it is deleted |
//! | `flush ruleset` deletes the set | the set is read every 2 s, and created again if it is missing |
//! | elements of other programs | the follower's elements have a comment; other elements are not changed |

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use callback_source::Family;
use tokio::{process::Command, time::Instant};
use tracing::debug;

use super::{
    goal::{Carried, Goal},
    nft_plan::Plan,
    nft_script::Script,
    nft_state::{self, SetName, SetState},
    process::{self, Limits},
    target::{Change, Mode, Syncing, Target, TargetError},
};

/// Target for two sets in a table of the family `inet`.
pub(super) struct Nftables {
    name: String,
    sets: [SetName; 2],
    carried: [Carried; 2],
}

impl Nftables {
    pub(super) fn new(name: String, table: &str, set: &str) -> Self {
        let set_name = |suffix: &str, family| SetName {
            table: table.to_owned(),
            set: set.to_owned() + suffix,
            family,
        };
        Self {
            name,
            sets: [set_name("", Family::V4), set_name("6", Family::V6)],
            carried: Default::default(),
        }
    }
}

impl Target for Nftables {
    fn name(&self) -> &str {
        &self.name
    }

    fn sync(&mut self, goal: Arc<Goal>, mode: Mode) -> Syncing<'_> {
        Box::pin(async move {
            let mut states = self.list().await?;
            let (mut parts, mut total, mut first_error) = (Vec::new(), Change::default(), None);
            for (set, carried) in self.sets.iter().zip(&mut self.carried) {
                let state = states.remove(&set.set);
                let is_missing = state.is_none();
                let state = state.unwrap_or_default();
                let intervals = set.needs_intervals(&goal);
                // A fault of one set must not stop the updates of the other set.
                if let Err(error) = state.check(set, intervals) {
                    first_error = first_error.or(Some(error));
                    continue;
                }
                let plan = Plan::new(&state, &goal, carried, set.family, now());
                first_error = first_error.or_else(|| plan.problem.clone());
                total.add(&plan.change);
                parts.push(Part {
                    set: set.clone(),
                    make: is_missing.then_some(intervals),
                    plan,
                });
            }
            if mode == Mode::Write && parts.iter().any(Part::is_needed) {
                write(&parts).await?;
                self.check_written(&parts).await?;
            }
            first_error.map_or(Ok(total), Err)
        })
    }
}

/// Planned changes to one set.
struct Part {
    set: SetName,
    /// `Some` if the set is missing and must be created. `Some(true)` creates the set with the flag `interval`.
    make: Option<bool>,
    plan: Plan,
}

impl Part {
    fn is_needed(&self) -> bool {
        self.make.is_some() || !self.plan.is_empty()
    }

    fn script(&self, script: Script) -> Script {
        let script = match self.make {
            Some(intervals) => script.make(&self.set, intervals),
            None => script,
        };
        script.replace(&self.set, &self.plan.remove, &self.plan.write)
    }
}

/// Writes both sets in one transaction. If that fails, writes each set in its own transaction.
async fn write(parts: &[Part]) -> Result<(), TargetError> {
    for part in parts {
        if !part.plan.remove_first.is_empty() {
            // The removal needs a separate transaction: nft reports an overlap with a new interval even for an element
            // that the same transaction removes.
            nft(&Script::default().remove(&part.set, &part.plan.remove_first)).await?;
        }
    }
    let script = parts
        .iter()
        .fold(Script::default(), |script, part| part.script(script));
    if script.is_empty() || nft(&script).await.is_ok() {
        return Ok(());
    }
    let mut written = Ok(());
    for part in parts {
        let script = part.script(Script::default());
        if !script.is_empty() {
            written = written.and(nft(&script).await.map(drop));
        }
    }
    written
}

impl Nftables {
    /// Reads the sets back. Fails if an element of the follower is permanent, or if a written element is missing.
    async fn check_written(&self, parts: &[Part]) -> Result<(), TargetError> {
        let states = self.list().await?;
        let none = SetState::default();
        for Part { set, plan, .. } in parts {
            let state = states.get(&set.set).unwrap_or(&none);
            let name = &set.set;
            debug!(set = name, written = plan.write.len(), "elements written");
            let permanent = state.permanent();
            if !permanent.is_empty() {
                nft(&Script::default().remove(set, &permanent)).await?;
                let count = permanent.len();
                return Err(TargetError::new(format!(
                    "the kernel made {count} elements of `{name}` permanent; they were removed"
                )));
            }
            let missing = plan.write.iter().find(|written| {
                // An element with a timeout of at most 5 s may have expired since the write.
                written.seconds > 5 && state.find(written.network).is_none()
            });
            if let Some(written) = missing {
                return Err(TargetError::new(format!(
                    "the element `{}` is not in the set `{name}` after it was added",
                    written.network
                )));
            }
        }
        Ok(())
    }

    /// Returns the sets of the table by name. The map is empty if the table does not exist.
    async fn list(&self) -> Result<BTreeMap<String, SetState>, TargetError> {
        let [set, _] = &self.sets;
        match nft(&Script::default().list(set)).await {
            Ok(output) => nft_state::parse(&output),
            Err(error) if error.problem.contains("No such file or directory") => {
                Ok(BTreeMap::new())
            }
            Err(error) => Err(error),
        }
    }
}

impl SetName {
    fn needs_intervals(&self, goal: &Goal) -> bool {
        let networks = goal.members().keys();
        networks
            .filter(|network| Family::from_ip(network.addr()) == self.family)
            .any(|network| network.prefix_len() < network.max_prefix_len())
    }
}

/// Runs a script in one transaction, and returns the output of nft.
async fn nft(script: &Script) -> Result<Vec<u8>, TargetError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The `PATH` of a service often lacks these folders.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    let path = std::env::join_paths(std::env::split_paths(&path).chain(system)).unwrap_or(path);
    let mut command = Command::new("nft");
    command
        .args(["-j", "-f", "-"])
        .env("PATH", path)
        .env("LC_ALL", "C");
    let finished = process::run(&mut command, script.text().as_bytes(), LIMITS)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                TargetError::new("cannot run `nft`").with_hint("install the package `nftables`")
            }
            _ => TargetError::new(format!("cannot run `nft`: {error}")),
        })?;
    if finished.stdout.is_cut {
        return Err(TargetError::new("the output of `nft` is too long")
            .with_hint("give the follower a table of its own"));
    }
    if finished.status.success() {
        return Ok(finished.stdout.bytes);
    }
    let stderr = finished.stderr.line();
    let error = TargetError::new(format!("`nft` failed: {stderr}"));
    Err(match stderr.contains("not permitted") {
        true => error.with_hint(
            "run it as root or with the capability `CAP_NET_ADMIN`, such as `AmbientCapabilities=CAP_NET_ADMIN` \
             in its systemd unit",
        ),
        false => error,
    })
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    output: 16 << 20,
};

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        thread,
    };

    use integration_tests::netns::{self, Netns, SERVER};
    use tokio::runtime;

    use super::*;
    use crate::follow::{
        goal::MAX_SECONDS,
        nft_ruleset::ruleset,
        nft_script::Written,
        testing::{goal, net},
    };

    fn target() -> Nftables {
        Nftables::new("nftables:inet/t/s".to_owned(), "t", "s")
    }

    /// Runs a future, and the processes that it starts, in a network namespace.
    fn within<T: Send>(netns: &Netns, run: impl AsyncFnOnce() -> T + Send) -> T {
        netns.within(|| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(run())
        })
    }

    fn listed(netns: &Netns, set: &str) -> SetState {
        let listed = netns.nft(&format!("-j list set inet t {set}"));
        let mut sets = nft_state::parse(listed.as_bytes()).unwrap();
        sets.remove(set).unwrap()
    }

    /// Tests the timeouts of `TimeOut` with the real nft and the real kernel.
    #[test]
    fn no_window_makes_an_element_that_is_permanent_or_outlives_it() {
        let Some((server, _client)) = netns::connected(&[]) else {
            return;
        };
        let mut windows = vec![
            1,
            2,
            500,
            999,
            1_000,
            1_001,
            1_500,
            59_999,
            1 << 31,
            1 << 32,
        ];
        windows.extend(((1 << 32) - 1_500..1 << 32).step_by(250));
        // The other windows have all orders of magnitude from 3 s, and are the same in each run.
        let mut spread = 1_u64;
        while windows.len() < 1_000 {
            spread = spread
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            windows.push((spread >> 32 >> (spread % 32)).max(3_000));
        }
        let names: Vec<_> = (0..windows.len())
            .flat_map(|at| {
                [
                    format!("20.0.{}.{}", at / 250, at % 250),
                    format!("2001:db8:1::{at:x}"),
                ]
            })
            .collect();
        let members: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.as_str(), windows[at / 2]))
            .collect();
        let start = Instant::now();
        let goal = Arc::new(goal(&members, true, start.into_std()));
        let change = within(&server, async || target().sync(goal, Mode::Write).await);
        assert!(change.is_ok(), "{change:?}");
        for (set, names) in [("s", 0), ("s6", 1)] {
            let state = listed(&server, set);
            let passed = start.elapsed().as_secs() + 1;
            assert!(state.permanent().is_empty());
            for (name, window) in members.iter().skip(names).step_by(2) {
                let longest = window.div_ceil(1000);
                let Some(element) = state.find(net(name)) else {
                    assert!(longest <= passed, "the element of {window} ms is gone");
                    continue;
                };
                let expires = element.expires.expect("it has an end");
                assert!(
                    element.is_ours && expires <= longest,
                    "{window} ms: {expires} s"
                );
                let least = longest.min(MAX_SECONDS).saturating_sub(passed + 1);
                assert!(expires >= least, "{window} ms: {expires} s");
            }
        }
    }

    /// Each of a hundred transactions renews ten elements, while packets arrive from all ten addresses.
    #[test]
    fn no_packet_of_a_listed_peer_is_lost_in_a_thousand_renewals() {
        let names: Vec<_> = (10..20).map(|last| format!("203.0.113.{last}")).collect();
        let clients: Vec<_> = names.iter().map(String::as_str).collect();
        let Some((server, client)) = netns::connected(&clients) else {
            return;
        };
        server.load(&ruleset("t", "s", false));
        let sink = server.within(|| UdpSocket::bind((SERVER, 443)).unwrap());
        sink.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let sources: Vec<_> = client.within(|| {
            let sources = clients.iter().map(|address| {
                let source = UdpSocket::bind((*address, 0)).unwrap();
                source.connect((SERVER, 443)).unwrap();
                source
            });
            sources.collect()
        });
        let members: Vec<_> = clients.iter().map(|name| (*name, 100_000_000)).collect();
        let goal = goal(&members, true, now());
        let mut target = target();
        let change = within(&server, async || {
            target.sync(Arc::new(goal), Mode::Write).await.unwrap()
        });
        assert_eq!(change.added.len(), 10);

        let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let began = Instant::now();
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for source in sources.iter().cycle().take(100) {
                        sent.fetch_add(source.send(b"callback").is_ok().into(), Ordering::Relaxed);
                    }
                    thread::yield_now();
                }
            });
            let received = scope.spawn(|| {
                let mut received = 0_u64;
                let mut packet = [0; 16];
                while !is_over.load(Ordering::Relaxed) {
                    received += u64::from(sink.recv(&mut packet).is_ok());
                }
                received
            });
            within(&server, async || {
                for at in 1..=100 {
                    // This is the write of a plan, without the reads before and after the write.
                    let renewed = clients.iter().map(|client| Written {
                        network: net(client),
                        seconds: 100_000 + at,
                        current: Some((*client).into()),
                    });
                    let renewed: Vec<_> = renewed.collect();
                    let script = Script::default().replace(&target.sets[0], &[], &renewed);
                    nft(&script).await.unwrap();
                }
            });
            is_over.store(true, Ordering::Relaxed);
            received.join().unwrap()
        });
        let seconds = began.elapsed().as_secs_f64();
        let sent = sent.into_inner();
        // The buffer of the receiving socket may overflow, so the test checks the firewall's counter of dropped
        // packets.
        let rules = server.nft("list chain inet t callers_only");
        assert!(rules.contains("counter packets 0 bytes 0 drop"), "{rules}");
        let rate = sent as f64 / seconds;
        assert!(
            received > 0 && rate >= 10_000.0,
            "{received} of {sent} packets in {seconds} s"
        );
        let state = listed(&server, "s");
        for client in clients {
            let element = state.find(net(client));
            let expires = element.and_then(|element| element.expires);
            assert!(
                expires.is_some_and(|expires| expires > 100_000),
                "{expires:?}"
            );
        }
    }

    #[test]
    fn an_element_of_ours_that_became_permanent_is_an_error_and_removed() {
        let Some((server, _client)) = netns::connected(&[]) else {
            return;
        };
        server.load(&ruleset("t", "s", false));
        server.load(
            "add element inet t s { 20.0.0.1 comment \"callback-source\", 20.0.0.2, \
             20.0.0.3 timeout 1h, 20.0.0.4 timeout 1h comment \"callback-source\" }",
        );
        let goal = || Arc::new(goal(&[("20.0.0.9", 60_000)], true, now()));
        let mut target = target();
        let error = within(&server, async || target.sync(goal(), Mode::Write).await);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("without a timeout") && error.contains("20.0.0.1"),
            "{error}"
        );
        let state = listed(&server, "s");
        let left = ["20.0.0.1", "20.0.0.2", "20.0.0.3", "20.0.0.4", "20.0.0.9"]
            .map(|address| state.find(net(address)).is_some());
        assert_eq!(left, [false, true, true, false, true]);
        let change = within(&server, async || target.sync(goal(), Mode::Write).await);
        assert!(change.unwrap().is_none());
    }

    #[test]
    fn networks_and_addresses_share_a_set_with_intervals() {
        let Some((server, _client)) = netns::connected(&[]) else {
            return;
        };
        let mut target = target();
        let mut sync = |members: &[(&str, u64)]| {
            let goal = Arc::new(goal(members, true, now()));
            let target = &mut target;
            within(&server, async || target.sync(goal, Mode::Write).await).unwrap()
        };
        let addresses = [
            ("20.0.0.1", 60_000),
            ("20.0.0.2", 60_000),
            ("20.1.0.0/16", 60_000),
        ];
        assert_eq!(sync(&addresses).added.len(), 3);
        assert!(sync(&addresses).is_none());
        // All elements get longer windows, and are renewed in one transaction.
        let renewed = addresses.map(|(address, _)| (address, 90_000));
        assert!(sync(&renewed).is_none());
        let change = sync(&[("20.0.0.0/24", 60_000)]);
        assert_eq!((change.added.len(), change.removed.len()), (1, 3));
        let state = listed(&server, "s");
        assert_eq!(state.elements.len(), 1);
        assert!(
            state.elements[0]
                .expires
                .is_some_and(|expires| expires <= 60)
        );
    }

    #[test]
    fn a_set_of_another_kind_is_an_error_that_names_the_fix() {
        let Some((server, _client)) = netns::connected(&[]) else {
            return;
        };
        server.load("table inet t { set s { type ipv4_addr; }; set s6 { type ipv6_addr; flags timeout; }; }");
        let goal = Arc::new(goal(
            &[("20.0.0.1", 60_000), ("2001:db8::9", 60_000)],
            true,
            now(),
        ));
        let error = within(&server, async || target().sync(goal, Mode::Write).await);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("`s` has no flag `timeout`; remove the set"),
            "{error}"
        );
        // The other set is still updated.
        assert!(listed(&server, "s6").find(net("2001:db8::9")).is_some());
    }
}

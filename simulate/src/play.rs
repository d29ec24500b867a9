//! Plays a schedule with the real list, its refresher and the layers, under tokio's paused clock.

use std::{
    collections::VecDeque, convert::Infallible, fs, future::poll_fn, io, net::SocketAddr,
    path::PathBuf, task::Poll, time::Duration,
};

use callback_source::{
    AllowList, HickoryResolver, Policy, RejectionKind, Verdict,
    require::RequireVerifiedLayer,
    signature::{Secrets, Token, VerifyTokenLayer},
    simulation,
    verify::{SocketAddrPeer, VerifySourceLayer},
};
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use tempfile::TempDir;
use tokio::{
    runtime::Builder,
    task::{JoinHandle, yield_now},
    time::{sleep_until, timeout_at},
};
use tower::{Layer, Service, service_fn, util::BoxCloneService};

use crate::{
    network::{self, Wired},
    oracle::{Given, Ms, Right, Worlds, everybody, family_of},
    schedule::{Ending, Event, Schedule, Stack, What},
    world::{
        Class, RECHECK_WAIT, SLACK, Scripted, Shared, Tally, Violation, address, name, watched,
    },
};

/// Result of a run.
#[derive(Clone, Debug)]
pub(crate) struct Played {
    pub(crate) tally: Tally,
    pub(crate) violation: Option<Violation>,
    /// Time at which the run ended.
    pub(crate) until: Ms,
}

/// Plays a schedule until its end or until a rule is violated.
///
/// # Errors
///
/// Fails if the runtime or the temporary folder cannot be created.
pub(crate) fn play(schedule: &Schedule, fault: Option<simulation::Fault>) -> io::Result<Played> {
    fastrand::seed(schedule.seed);
    simulation::plant(fault);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let played = runtime.block_on(async {
        let mut player = Player::new(schedule);
        if schedule.hickory {
            network::connect(&player.shared, schedule.seed);
        }
        player.run().await?;
        let state = player.shared.lock();
        Ok(Played {
            tally: state.tally,
            violation: state.violation.clone(),
            until: player.shared.now(),
        })
    });
    simulation::plant(None);
    simulation::set_network(None);
    played
}

struct Player<'a> {
    schedule: &'a Schedule,
    shared: Shared,
    process: Option<Process>,
    starts: Option<Start>,
    /// Time up to which the ends of windows have been checked.
    looked: Ms,
    edge_calls: VecDeque<(u8, i8)>,
    folder: Option<TempDir>,
    wall: Ms,
}

/// A process that will start.
#[derive(Clone, Copy)]
struct Start {
    at: Ms,
    hosts: u8,
    state_file: bool,
}

type Layers = BoxCloneService<Request<()>, Response<String>, Infallible>;

struct Process {
    list: AllowList,
    refresher: JoinHandle<()>,
    source: Layers,
    both: Layers,
    warns: Layers,
}

impl<'a> Player<'a> {
    fn new(schedule: &'a Schedule) -> Self {
        Self {
            schedule,
            shared: Shared::new(schedule),
            process: None,
            starts: Some(Start {
                at: 0,
                hosts: schedule.setting.hosts,
                state_file: false,
            }),
            looked: 0,
            edge_calls: VecDeque::new(),
            folder: None,
            wall: 0,
        }
    }

    async fn run(&mut self) -> io::Result<()> {
        self.set_wall_clock();
        let mut events = self.schedule.events.iter().peekable();
        let end = ms(self.schedule.seconds * 1_000);
        loop {
            let now = self.shared.now();
            while let Some(event) = events.next_if(|event| ms(event.at) <= now) {
                self.take(*event).await?;
            }
            let now = self.shared.now();
            if let Some(start) = self.starts.filter(|start| start.at <= now) {
                self.start(start)?;
                continue;
            }
            let edge = self.next_look();
            if edge.is_some_and(|(at, _)| at <= now) {
                self.look(now).await;
                continue;
            }
            if self.shared.lock().violation.is_some() || end <= now {
                break;
            }
            let start = self.starts.map(|start| start.at);
            let event = events.peek().map(|event| ms(event.at));
            let wake = [Some(end), start, event, edge.map(|(at, _)| at)];
            let wake = wake.into_iter().flatten().min().unwrap_or(end);
            // If an outcome arrives during this wait, the next end of a window may become earlier.
            let news = self.shared.news.notified();
            let _ = timeout_at(self.shared.instant(wake), news).await;
        }
        if let Some(process) = self.process.take() {
            self.shared.lock().life += 1;
            process.refresher.abort();
            let _ = process.refresher.await;
        }
        Ok(())
    }

    async fn take(&mut self, Event { at, what }: Event) -> io::Result<()> {
        let now = self.shared.now();
        if self.process.is_some() {
            self.shared.lock().check_questions(now);
            self.check(now);
        }
        let now = ms(at).max(now);
        if let What::Zone { .. }
        | What::Gone { .. }
        | What::Server { .. }
        | What::Latency { .. }
        | What::Lag { .. } = what
        {
            self.shared.lock().weather += 1;
        }
        match what {
            What::Zone {
                host,
                family,
                addresses,
                ttl,
            } => self
                .shared
                .lock()
                .set_zone(host, family, addresses, ttl, now),
            What::Gone { host, gone } => self.shared.lock().set_gone(host, gone, now),
            What::Server { server, mood } => {
                self.shared.lock().servers[usize::from(server)].mood = mood;
            }
            What::Latency { server, ms } => {
                self.shared.lock().servers[usize::from(server)].latency = ms;
            }
            What::Lag { server, ms } => {
                self.shared.lock().servers[usize::from(server)].lag = ms;
            }
            What::Call { who, through } => self.call(who, through).await,
            What::EdgeCall { who, late } => self.edge_calls.push_back((who, late)),
            What::Flood { who, requests } => {
                for _ in 0..requests {
                    self.call(who, Stack::Source).await;
                }
            }
            What::Hosts { hosts } => {
                if let Some(process) = &self.process {
                    self.shared.lock().replace_hosts(hosts, now);
                    process.list.replace_hosts(hosts_of(hosts));
                    self.let_others_run().await;
                }
            }
            What::WallStep { ms } => {
                self.wall += ms;
                self.set_wall_clock();
                self.shared.lock().worlds.step_wall_clock(ms, now);
            }
            What::Writes { fail } => self.block_writes(fail, now)?,
            What::Restart {
                ending,
                down,
                hosts,
                state_file,
            } => {
                if self.process.is_some() {
                    self.end(ending).await?;
                    self.starts = Some(Start {
                        at: self.shared.now() + Ms::from(down),
                        hosts,
                        state_file,
                    });
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, start: Start) -> io::Result<()> {
        self.starts = None;
        let now = self.shared.now();
        let life = {
            let mut state = self.shared.lock();
            state.hosts = start.hosts;
            state.worlds.start(start.hosts, start.state_file, now);
            state.new_process(now);
            state.life
        };
        let setting = &self.schedule.setting;
        let seconds = Duration::from_secs;
        let mut builder = AllowList::builder()
            .hosts(hosts_of(start.hosts))
            .watch([watched()])
            .ttl_bounds(seconds(setting.min_ttl), seconds(setting.max_ttl))
            .map_err(io::Error::other)?
            .linger(seconds(setting.linger))
            .stale_for(seconds(setting.stale_for));
        if setting.networks {
            let networks = NETWORKS.map(|network| network.parse().expect("a network"));
            builder = builder.nets(networks).map_err(io::Error::other)?;
        }
        if start.state_file {
            builder = builder.state_file(self.state_file()?);
        }
        let shared = self.shared.clone();
        let (list, refresher) = match self.schedule.hickory {
            true => builder.pair(Wired {
                resolver: HickoryResolver::from_servers(network::servers())
                    .map_err(io::Error::other)?,
                shared,
                life,
            }),
            false => builder.pair(Scripted { shared, life }),
        };
        self.process = Some(Process::new(list, tokio::spawn(refresher.run())));
        self.check(now);
        Ok(())
    }

    async fn end(&mut self, ending: Ending) -> io::Result<()> {
        // The paused clock does not advance while a file is written. Therefore, no write is in progress a millisecond
        // later.
        sleep_until(self.shared.instant(self.shared.now() + 1)).await;
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let now = self.shared.now();
        {
            let mut state = self.shared.lock();
            state.life += 1;
            state.worlds.end(ending == Ending::Clean, now);
            if ending == Ending::Damaged {
                state.worlds.lose_disk();
            }
        }
        let path = match &self.folder {
            Some(_) => Some(self.state_file()?),
            None => None,
        };
        let before = path.as_ref().and_then(|path| fs::read(path).ok());
        process.refresher.abort();
        let _ = process.refresher.await;
        let Some(path) = path.filter(|_| ending != Ending::Clean) else {
            return Ok(());
        };
        // The dropped refresher has written the file. A killed process would not have written it, so the previous file
        // is restored.
        let written = fs::read(&path).unwrap_or_default();
        match &before {
            Some(before) => fs::write(&path, before)?,
            None => drop(fs::remove_file(&path)),
        }
        match ending {
            Ending::Damaged if before.is_some() => fs::write(&path, &written[..written.len() / 2])?,
            Ending::KillWriting => {
                // This fails if a folder blocks the path, so that no file can be written.
                let _ = fs::write(beside(&path), &written[..written.len() / 2]);
            }
            _ => {}
        }
        Ok(())
    }

    fn block_writes(&mut self, block: bool, now: Ms) -> io::Result<()> {
        let path = beside(&self.state_file()?);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        if block {
            fs::create_dir(&path)?;
            fs::write(path.join("in the way"), "")?;
        }
        self.shared.lock().worlds.block_writes(block, now);
        Ok(())
    }

    fn state_file(&mut self) -> io::Result<PathBuf> {
        if self.folder.is_none() {
            let memory = PathBuf::from("/dev/shm");
            let folder = match memory.is_dir() {
                true => TempDir::new_in(memory)?,
                false => TempDir::new()?,
            };
            self.folder = Some(folder);
        }
        let folder = self.folder.as_ref().expect("made just now");
        Ok(folder.path().join("state.json"))
    }

    fn set_wall_clock(&self) {
        let utc = u64::try_from(WALL_CLOCK_STARTS + self.wall).unwrap_or_default();
        simulation::set_wall_clock(self.shared.instant(0), Duration::from_millis(utc));
    }

    /// Returns the next time to check: just before, at, or just after the end of a window.
    fn next_look(&self) -> Option<(Ms, i8)> {
        self.process.as_ref()?;
        let state = self.shared.lock();
        let edge = state.worlds.next_edge(self.looked - 1)?;
        let late = (-1..=1).find(|late| self.looked < edge + Ms::from(*late))?;
        Some((edge + Ms::from(late), late))
    }

    async fn look(&mut self, now: Ms) {
        // Tasks whose timers end at this moment must run before the check.
        self.let_others_run().await;
        let late = self.next_look().map(|(_, late)| late);
        self.looked = now;
        self.check(now);
        if late == Some(-1) {
            self.foresee(now + 1);
        }
        while self.edge_calls.front().map(|(_, of)| *of) == late
            && let Some((who, _)) = self.edge_calls.pop_front()
        {
            self.call(who, Stack::Source).await;
        }
    }

    async fn let_others_run(&self) {
        for _ in 0..3 {
            yield_now().await;
        }
    }

    /// Checks the verdicts of the current set for a later time, the end of a window. A request may arrive before the
    /// refresher removes expired addresses.
    fn foresee(&self, at: Ms) {
        let Some(process) = &self.process else {
            return;
        };
        let set = process.list.snapshot();
        let mut state = self.shared.lock();
        let pictures = state.worlds.clone().picture(at);
        for who in everybody() {
            let given = given(&set.verdict(address(who), self.shared.instant(at).into()));
            state.judge(who, given, Worlds::right(&pictures, who), at);
        }
    }

    /// Checks the verdicts on all callers.
    fn check(&self, now: Ms) {
        let Some(process) = &self.process else {
            return;
        };
        let set = process.list.snapshot();
        let instant = self.shared.instant(now);
        let mut state = self.shared.lock();
        let mut pictures = state.worlds.picture(now);
        for who in everybody() {
            let given = given(&set.verdict(address(who), instant.into()));
            state.judge(who, given, Worlds::right(&pictures, who), now);
            state.judge_reason(who, given, now);
            if state.violation.is_some() {
                return;
            }
            if pictures.len() > 1 {
                state.worlds.observe(&pictures, who, given);
                pictures = state.worlds.picture(now);
            }
        }
    }

    async fn call(&self, who: u8, through: Stack) {
        let Some(process) = &self.process else {
            return;
        };
        let mut layers = match through {
            Stack::Source => process.source.clone(),
            Stack::Both { .. } => process.both.clone(),
            Stack::Warns { .. } => process.warns.clone(),
        };
        let Ok(()) = poll_fn(|cx| layers.poll_ready(cx)).await;
        let sent = self.shared.now();
        let call = {
            let mut state = self.shared.lock();
            state.tally.requests += 1;
            let pictures = state.worlds.picture(sent);
            let right = Worlds::right(&pictures, who);
            if right.not_listed || right.unresolved {
                state.unlisted_at = sent;
            }
            Call {
                shared: self.shared.clone(),
                who,
                through,
                sent,
                life: state.life,
                at_first: right,
                due: state.due_for_unlisted(family_of(who), sent),
                replaced: state.replaced,
            }
        };
        let mut response = layers.call(request(who, through));
        let first = poll_fn(|cx| Poll::Ready(response.as_mut().poll(cx))).await;
        if let Poll::Ready(Ok(response)) = first {
            return call.judge(response.status());
        }
        self.shared.lock().tally.waited += 1;
        tokio::spawn(async move {
            let Ok(response) = response.await;
            call.judge(response.status());
        });
    }
}

/// A request in flight.
struct Call {
    shared: Shared,
    who: u8,
    through: Stack,
    sent: Ms,
    life: u32,
    at_first: Right,
    /// Questions that could go out when the request was sent.
    due: Vec<usize>,
    /// Number of replacements of the hosts before the request was sent.
    replaced: u32,
}

impl Call {
    fn judge(&self, status: StatusCode) {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if state.life != self.life {
            return;
        }
        let pictures = state.worlds.picture(now);
        let right = Worlds::right(&pictures, self.who);
        let waited = now - self.sent;
        let given = match (self.through, status.as_u16()) {
            (Stack::Source | Stack::Both { token: true }, 200) => Given::Admit,
            (Stack::Source | Stack::Both { .. }, 403) => Given::NotListed,
            (Stack::Source | Stack::Both { token: true }, 503) => Given::Unresolved,
            // The source check admits the client or is undecided, so the message check decides.
            (Stack::Both { token: false }, 401) => {
                if !(right.admit || right.unresolved) {
                    let text = format!("caller {}: 401, and it is surely not listed", self.who);
                    state.violated(now, Class::Response, text);
                }
                return;
            }
            (Stack::Warns { token: true }, 200) | (Stack::Warns { token: false }, 401) => return,
            _ => {
                let text = format!("caller {}: {status} through {:?}", self.who, self.through);
                state.violated(now, Class::Response, text);
                return;
            }
        };
        state.judge(self.who, given, right, now);
        state.worlds.observe(&pictures, self.who, given);
        let surely = self.at_first.admit && self.at_first.is_decided();
        if waited > RECHECK_WAIT + SLACK || (surely && waited > 0) {
            let text = format!("caller {} waited for {waited} ms", self.who);
            state.violated(now, Class::Waiting, text);
        }
        if given != Given::Admit {
            let hasty = self.due.iter().find(|question| {
                let (asked, finished) = state.asked_since(**question, self.sent);
                let stayed = state.stayed_since(**question, self.replaced);
                stayed && !(asked && (finished || waited >= RECHECK_WAIT))
            });
            if let Some(question) = hasty {
                let text = format!(
                    "caller {} got {given:?} after {waited} ms; host {}, family {} was not asked or not \
                     waited for",
                    self.who,
                    question / 2,
                    question % 2
                );
                state.violated(now, Class::Waiting, text);
            }
        }
    }
}

impl Process {
    fn new(list: AllowList, refresher: JoinHandle<()>) -> Self {
        let merchant =
            service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
        let source = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(merchant);
        let token = || Secrets::from(Token::new(TOKEN).expect("a token"));
        let joined = |policy| {
            let service = RequireVerifiedLayer::new(policy).layer(merchant);
            let service = VerifyTokenLayer::tagging(token()).layer(service);
            BoxCloneService::new(
                VerifySourceLayer::tagging(list.clone(), SocketAddrPeer).layer(service),
            )
        };
        Self {
            source: BoxCloneService::new(source),
            both: joined(Policy::Both),
            warns: joined(Policy::MessageWarnOnSource),
            refresher,
            list,
        }
    }
}

fn request(who: u8, through: Stack) -> Request<()> {
    let mut request = Request::new(());
    let peer = SocketAddr::new(address(who), 4711);
    request.extensions_mut().insert(peer);
    let token = match through {
        Stack::Source => return request,
        Stack::Both { token } | Stack::Warns { token } => token,
    };
    let token = if token { TOKEN } else { "another" };
    let token = token.parse().expect("a header value");
    request.headers_mut().insert(AUTHORIZATION, token);
    request
}

pub(crate) fn given(verdict: &Verdict) -> Given {
    match verdict {
        Verdict::Allow(_) => Given::Admit,
        Verdict::Reject(rejection) if rejection.kind() == RejectionKind::NotListed => {
            Given::NotListed
        }
        Verdict::Reject(rejection) if rejection.kind() == RejectionKind::WrongEnvironment => {
            Given::WrongEnvironment
        }
        Verdict::Reject(_) => Given::Unresolved,
    }
}

fn hosts_of(hosts: u8) -> Vec<callback_source::HostName> {
    let hosts = (0..crate::schedule::HOSTS).filter(|host| hosts >> host & 1 == 1);
    hosts.map(name).collect()
}

fn beside(path: &std::path::Path) -> PathBuf {
    path.with_file_name("state.json.tmp")
}

fn ms(at: u64) -> Ms {
    i64::try_from(at).unwrap_or(Ms::MAX)
}

/// The networks of the oracle's static callers.
const NETWORKS: [&str; 3] = ["20.0.1.2/32", "20.0.1.48/30", "2a00:1234:0:31::/64"];

const TOKEN: &str = "s3cret";

/// Start of the wall clock, a time in 2026.
const WALL_CLOCK_STARTS: Ms = 1_795_000_000_000;

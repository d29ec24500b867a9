//! Events of a simulated year. Each seed determines one schedule.

use fastrand::Rng;

/// All events, in order. The `{:?}` format is the Rust expression of the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Seed of the random choices of the library and of the simulated network.
    pub(crate) seed: u64,
    /// True if the resolver is hickory, on a network in memory, instead of the scripted resolver.
    pub(crate) hickory: bool,
    pub(crate) setting: Setting,
    /// Duration of the schedule, in seconds.
    pub(crate) seconds: u64,
    pub(crate) events: Vec<Event>,
}

/// Settings for the whole run. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The configured hosts, with one bit for each host.
    pub(crate) hosts: u8,
    pub(crate) min_ttl: u64,
    pub(crate) max_ttl: u64,
    pub(crate) linger: u64,
    pub(crate) stale_for: u64,
    /// True if static networks are admitted as well.
    pub(crate) networks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Milliseconds since the start.
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The zone gets these addresses of a host's pool, with a TTL in seconds. Each bit is an address. If no bit is set,
    /// the response is "no data".
    Zone {
        host: u8,
        family: u8,
        addresses: u8,
        ttl: u32,
    },
    /// The host's name is removed (NXDOMAIN), or added back.
    Gone { host: u8, gone: bool },
    /// One of the two DNS servers changes its behavior.
    Server { server: u8, mood: Mood },
    /// The delay of a server's answers changes to this number of milliseconds.
    Latency { server: u8, ms: u32 },
    /// A server answers from an older state of the zone. The state is this number of milliseconds old.
    Lag { server: u8, ms: u32 },
    /// A request through the layer.
    Call { who: u8, through: Stack },
    /// A request through the layer just before (-1), at (0) or just after (1) the next end of a window. `late` is in
    /// milliseconds.
    EdgeCall { who: u8, late: i8 },
    /// Many requests of one peer at the same time.
    Flood { who: u8, requests: u16 },
    /// The hosts are replaced at run time.
    Hosts { hosts: u8 },
    /// The wall clock jumps by this number of milliseconds.
    WallStep { ms: i64 },
    /// The state file becomes unwritable, or writable again.
    Writes { fail: bool },
    /// The process ends. After `down` milliseconds, a new process starts.
    Restart {
        ending: Ending,
        down: u32,
        hosts: u8,
        state_file: bool,
    },
}

/// Behavior of a DNS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    ServFail,
    Refused,
    ErrorCode,
    Malformed,
    Truncated,
    Bogus,
    BrokenChain,
    /// The network cannot be reached.
    Unreachable,
    Silent,
    /// Each packet is lost with a probability of one half.
    Lossy,
    /// Answers every question with NXDOMAIN.
    Denies,
    /// Answers every question with "no data".
    Empty,
    /// Answers every question with one private address, as a captive portal does.
    Portal,
    /// Adds a private address to the correct addresses, as in a DNS rebinding attack.
    Rebinds,
    /// Answers with more addresses than allowed.
    TooMany,
}

/// Layers that a request passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// `VerifySourceLayer::rejecting`.
    Source,
    /// Source and token, joined by `Policy::Both`, with the right or a wrong token.
    Both { token: bool },
    /// Source and token, joined by `Policy::MessageWarnOnSource`.
    Warns { token: bool },
}

/// The way in which a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A clean exit, which writes the state.
    Clean,
    /// `kill -9`.
    Kill,
    /// `kill -9` during a write, which leaves half of a temporary file next to the old file.
    KillWriting,
    /// Damage to the disk, which truncates the file.
    Damaged,
}

impl Schedule {
    /// Creates a schedule of this duration.
    pub(crate) fn with_length(seed: u64, seconds: u64) -> Self {
        let mut draw = Draw {
            rng: Rng::with_seed(seed),
            setting: Setting {
                hosts: 0,
                min_ttl: 0,
                max_ttl: 0,
                linger: 0,
                stale_for: 0,
                networks: false,
            },
            end: seconds * SECOND,
            questions: 0,
            events: Vec::new(),
        };
        draw.all(seed);
        draw.events.sort_by_key(|event| event.at);
        draw.events.retain(|event| event.at < draw.end);
        Self {
            seed,
            // Hickory is slower, so only one seed in ten uses it.
            hickory: seed.is_multiple_of(10),
            setting: draw.setting,
            seconds,
            events: draw.events,
        }
    }
}

struct Draw {
    rng: Rng,
    setting: Setting,
    end: u64,
    /// Estimated maximum number of questions that the events so far cause.
    questions: u64,
    events: Vec<Event>,
}

impl Draw {
    fn all(&mut self, seed: u64) {
        self.setting();
        self.setting.networks = seed % 10 == 3;
        if seed % 10 == 7 {
            self.setting.stale_for = 0;
        }
        self.start();
        let hosts = u64::from(self.setting.hosts.count_ones());
        // Outside episodes, each question goes out once per maximum TTL, or once a day if that TTL is longer.
        self.questions = 2 * hosts * self.end / SECOND / self.setting.max_ttl.min(CALM_TTL);
        // Episodes that occur in every year.
        for month in [3, 6, 9, 12] {
            let at = self.end / 12 * month - self.rng.u64(0..self.end / 24);
            self.rotation(at);
        }
        self.callers();
        // More episodes are drawn until their questions use up the budget.
        for _ in 0..MAX_EPISODES {
            if MAX_QUESTIONS < self.questions {
                break;
            }
            let at = self.rng.u64(0..self.end);
            self.episode(at);
        }
    }

    fn setting(&mut self) {
        let hosts = *self.pick(&[0b0001, 0b0011, 0b0011, 0b0011, 0b0101, 0b0111]);
        self.setting.hosts = hosts;
        let windows = [
            // The default windows.
            (5, HOUR, HOUR, 24 * HOUR),
            (5, HOUR, HOUR, 24 * HOUR),
            (5, HOUR, HOUR, 24 * HOUR),
            // Long TTLs.
            (30, 7 * 24 * HOUR, 24 * HOUR, 3 * 24 * HOUR),
            (1, 24 * HOUR, 2 * HOUR, 12 * HOUR),
            // Short linger or stale windows.
            (1, 2 * HOUR, MINUTE, 10 * MINUTE),
            (5, HOUR, 10 * MINUTE, HOUR),
            (10, 4 * HOUR, 3 * HOUR, 30 * MINUTE),
        ];
        let (min_ttl, max_ttl, linger, stale_for) = *self.pick(&windows);
        let setting = &mut self.setting;
        (setting.min_ttl, setting.max_ttl) = (min_ttl, max_ttl);
        (setting.linger, setting.stale_for) = (linger, stale_for);
        // With a maximum TTL of an hour, three hosts would use up too much of the year's budget of questions.
        if setting.hosts == 0b0111 && setting.max_ttl == HOUR {
            setting.hosts = 0b0101;
        }
    }

    fn start(&mut self) {
        for host in 0..HOSTS {
            let v4 = self.some_addresses();
            let v6 = if self.rng.bool() {
                self.some_addresses()
            } else {
                0
            };
            self.zone(0, host, [v4, v6], CALM_TTL as u32);
        }
        for server in 0..2 {
            let ms = *self.pick(&[0, 1, 20, 80]);
            self.push(0, What::Latency { server, ms });
        }
        let state_file = self.rng.bool();
        if state_file {
            self.push(
                1,
                What::Restart {
                    ending: Ending::Clean,
                    down: 0,
                    hosts: self.setting.hosts,
                    state_file,
                },
            );
            let until = self.rng.u64(HOUR..3 * 24 * HOUR) * SECOND;
            self.push(
                until,
                What::Restart {
                    ending: Ending::Clean,
                    down: 5_000,
                    hosts: self.setting.hosts,
                    state_file: false,
                },
            );
        }
    }

    fn callers(&mut self) {
        for _ in 0..800 {
            let at = self.rng.u64(0..self.end);
            let who = self.rng.u8(0..WHO);
            let through = self.stack();
            self.push(at, What::Call { who, through });
            self.questions += 2;
        }
        for _ in 0..300 {
            let at = self.rng.u64(0..self.end);
            let what = self.edge_call();
            self.push(at, what);
        }
    }

    fn edge_call(&mut self) -> What {
        What::EdgeCall {
            who: self.rng.u8(0..WHO),
            late: self.rng.i8(-1..=1),
        }
    }

    fn stack(&mut self) -> Stack {
        let token = self.rng.u8(0..4) != 0;
        *self.pick(&[
            Stack::Source,
            Stack::Source,
            Stack::Source,
            Stack::Both { token },
            Stack::Warns { token },
        ])
    }

    fn episode(&mut self, at: u64) {
        match self.rng.u8(0..14) {
            0 => self.rotation(at),
            1 | 2 => self.subsets(at),
            3 | 4 => self.outage(at),
            5 => self.denials(at),
            6 => self.broken_host(at),
            7 | 8 => self.restarts(at),
            9 => self.replaced(at),
            10 => self.slow(at),
            11 => self.differing(at),
            12 => self.busy(at),
            _ => self.storm(at),
        }
    }

    /// Replaces a host's addresses. Within an hour, addresses of the host's pool send callbacks.
    fn rotation(&mut self, at: u64) {
        let host = self.host();
        let ttl = self.ttl(8 * HOUR);
        // Some operators lower the TTL before a rotation.
        if self.rng.bool() {
            let before = [self.some_addresses(), self.some_addresses()];
            self.zone(at.saturating_sub(2 * HOUR * SECOND), host, before, ttl);
        }
        let after = [self.some_addresses(), self.addresses()];
        self.zone(at, host, after, ttl);
        for _ in 0..12 {
            let spread = *self.pick(&[100, 5_000, 20_000, 3_600_000]);
            let later = at + self.rng.u64(0..spread);
            let who = self.member(host);
            let through = self.stack();
            self.push(later, What::Call { who, through });
            self.questions += 4;
        }
        self.edges(at, 2 * HOUR * SECOND, 6);
        let calm = at + self.rng.u64(HOUR..6 * HOUR) * SECOND;
        self.zone(calm, host, after, CALM_TTL as u32);
    }

    /// Repeatedly changes the part of a host's addresses that DNS returns.
    fn subsets(&mut self, at: u64) {
        let host = self.host();
        let ttl = *self.pick(&[0, 30, 60, 300, 3600]);
        let times = self.rng.u64(3..12);
        let period = u64::from(ttl.max(20)) * SECOND;
        for time in 0..times {
            let jitter = self.rng.u64(0..period);
            let now = [self.some_addresses(), self.addresses()];
            self.zone(at + time * period + jitter, host, now, ttl);
        }
        self.cost(times * period / SECOND, u64::from(ttl) + 1);
        let end = at + (times + 1) * period;
        self.calls(at, end, 10);
        self.edges(at, end - at + self.setting.linger * SECOND, 6);
        let last = [self.some_addresses(), self.addresses()];
        self.zone(end, host, last, CALM_TTL as u32);
    }

    /// Makes both servers fail in some way.
    fn outage(&mut self, at: u64) {
        let lasts = self.length();
        let moods = FAILING;
        for server in 0..2 {
            let mood = *self.pick(&moods);
            let when = at + self.rng.u64(0..3_000);
            self.push(when, What::Server { server, mood });
        }
        if self.rng.u8(0..3) == 0 {
            let mood = *self.pick(&moods);
            self.push(at + lasts / 2, What::Server { server: 0, mood });
        }
        let end = at + lasts;
        self.push(
            end,
            What::Server {
                server: 0,
                mood: Mood::Well,
            },
        );
        let later = end + self.rng.u64(0..90_000);
        self.push(
            later,
            What::Server {
                server: 1,
                mood: Mood::Well,
            },
        );
        self.cost(lasts / SECOND, MINUTE);
        self.calls(at, end + MINUTE * SECOND, 12);
        self.edges(at, lasts, 8);
        if self.rng.u8(0..3) == 0 {
            let when = at + self.rng.u64(0..lasts);
            self.restarts(when);
        }
        if self.rng.bool() {
            let host = self.host();
            let now = [self.some_addresses(), self.addresses()];
            let when = at + self.rng.u64(0..lasts);
            self.zone(when, host, now, CALM_TTL as u32);
        }
    }

    /// Makes both servers deny every question, answer like a captive portal, or add private addresses.
    fn denials(&mut self, at: u64) {
        let lasts = self.length();
        let mood = *self.pick(&[Mood::Denies, Mood::Empty, Mood::Portal, Mood::Rebinds]);
        for server in 0..2 {
            self.push(at, What::Server { server, mood });
            self.push(
                at + lasts,
                What::Server {
                    server,
                    mood: Mood::Well,
                },
            );
        }
        self.cost(lasts / SECOND, MINUTE);
        self.calls(at, at + lasts, 10);
        self.edges(at, lasts, 6);
    }

    /// Withdraws one host for some time.
    fn broken_host(&mut self, at: u64) {
        let host = self.host();
        let lasts = self.length();
        self.push(at, What::Gone { host, gone: true });
        self.push(at + lasts, What::Gone { host, gone: false });
        self.cost(lasts / SECOND, 2 * MINUTE);
        if self.rng.bool() {
            let ttl = self.ttl(4 * HOUR);
            for host in 0..HOSTS {
                let now = [self.some_addresses(), self.addresses()];
                self.zone(at.saturating_sub(MINUTE * SECOND), host, now, ttl);
                self.zone(at + 4 * HOUR * SECOND, host, now, CALM_TTL as u32);
            }
        }
        self.calls(at, at + lasts, 10);
        self.edges(at, lasts, 8);
    }

    /// Ends processes in random ways, while DNS works or fails.
    fn restarts(&mut self, at: u64) {
        let hosts = self.setting.hosts;
        let mut now = at;
        self.push(
            now,
            What::Restart {
                ending: Ending::Clean,
                down: 100,
                hosts,
                state_file: true,
            },
        );
        let without_dns = self.rng.bool();
        for _ in 0..self.rng.u8(1..6) {
            let steps = [
                5 * SECOND,
                70 * SECOND,
                600 * SECOND,
                self.setting.max_ttl * SECOND,
            ];
            now += *self.pick(&steps) + self.rng.u64(0..30_000);
            match self.rng.u8(0..8) {
                0 => {
                    let ms =
                        *self.pick(&[-3_600_000, -61_000, -30_000, 30_000, 3_600_000, 86_400_000]);
                    self.push(now, What::WallStep { ms });
                }
                1 => {
                    self.push(now, What::Writes { fail: true });
                    self.push(now + 200_000, What::Writes { fail: false });
                }
                2 => {
                    let host = self.host();
                    let ttl = self.ttl(HOUR);
                    let addresses = [self.some_addresses(), self.addresses()];
                    self.zone(now, host, addresses, ttl);
                    self.zone(now + HOUR * SECOND, host, addresses, CALM_TTL as u32);
                }
                _ => {}
            }
            if without_dns {
                let server_mood = *self.pick(&FAILING);
                let lasts = *self.pick(&[2_000, 60_000, 3_600_000]);
                for server in 0..2 {
                    self.push(
                        now,
                        What::Server {
                            server,
                            mood: server_mood,
                        },
                    );
                    self.push(
                        now + lasts,
                        What::Server {
                            server,
                            mood: Mood::Well,
                        },
                    );
                }
            }
            now += self.rng.u64(1..20_000);
            let ending = *self.pick(&[
                Ending::Clean,
                Ending::Kill,
                Ending::Kill,
                Ending::KillWriting,
                Ending::Damaged,
            ]);
            let down = *self.pick(&[0, 1_000, 60_000, 3_600_000, 90_000_000]);
            self.push(
                now,
                What::Restart {
                    ending,
                    down,
                    hosts,
                    state_file: true,
                },
            );
            now += u64::from(down);
            self.calls(now, now + 10_000, 4);
            self.edges(now, 4 * HOUR * SECOND, 2);
        }
        // A list with a state file writes the file once a minute, which slows the simulation down. The next process
        // therefore has no state file.
        now += self.rng.u64(MINUTE..30 * HOUR) * SECOND;
        self.push(
            now,
            What::Restart {
                ending: Ending::Clean,
                down: 2_000,
                hosts,
                state_file: false,
            },
        );
        self.questions += 60;
    }

    fn replaced(&mut self, at: u64) {
        let mut now = at;
        for _ in 0..self.rng.u8(1..5) {
            let hosts = self.rng.u8(0..1 << HOSTS);
            self.push(now, What::Hosts { hosts });
            let later = now + *self.pick(&[1, 3_000, 60_000]);
            self.calls(now, later + 1, 2);
            now = later + self.rng.u64(0..4_000);
        }
        let hosts = self.setting.hosts;
        self.push(now, What::Hosts { hosts });
        self.calls(now, now + 5_000, 2);
        self.questions += 40;
    }

    fn slow(&mut self, at: u64) {
        let lasts = self.length().min(3 * HOUR * SECOND);
        for server in 0..2 {
            let ms = *self.pick(&[300, 990, 1_010, 2_500, 4_999, 5_001, 60_000]);
            self.push(at, What::Latency { server, ms });
            let mood = *self.pick(&[Mood::Well, Mood::Lossy]);
            self.push(at, What::Server { server, mood });
            self.push(at + lasts, What::Latency { server, ms: 20 });
            self.push(
                at + lasts,
                What::Server {
                    server,
                    mood: Mood::Well,
                },
            );
        }
        self.cost(lasts / SECOND, MINUTE);
        self.calls(at, at + lasts, 12);
        let host = self.host();
        let when = at + self.rng.u64(0..lasts);
        self.rotation_of(when, host);
    }

    /// Lets the second server answer from an older state of the zone. The first server loses packets, and the resolver
    /// then asks the second server.
    fn differing(&mut self, at: u64) {
        let lasts = self.length().min(6 * HOUR * SECOND);
        let ms = *self.pick(&[10_000, 300_000, 3_600_000]);
        self.push(at, What::Lag { server: 1, ms });
        self.push(
            at,
            What::Server {
                server: 0,
                mood: Mood::Lossy,
            },
        );
        let host = self.host();
        let ttl = self.ttl(lasts / SECOND);
        for _ in 0..4 {
            let now = [self.some_addresses(), self.addresses()];
            let when = at + self.rng.u64(0..lasts);
            self.zone(when, host, now, ttl);
        }
        self.calls(at, at + lasts, 12);
        self.edges(at, lasts, 4);
        self.push(at + lasts, What::Lag { server: 1, ms: 0 });
        self.push(
            at + lasts,
            What::Server {
                server: 0,
                mood: Mood::Well,
            },
        );
        let now = [self.some_addresses(), self.addresses()];
        self.zone(at + lasts, host, now, CALM_TTL as u32);
    }

    /// Sends many requests within seconds, around a rotation.
    fn busy(&mut self, at: u64) {
        let host = self.host();
        let when = at + self.rng.u64(0..8_000);
        self.rotation_of(when, host);
        for _ in 0..20 {
            let when = at + self.rng.u64(0..20_000);
            let through = self.stack();
            let who = if self.rng.bool() {
                self.member(host)
            } else {
                self.unlisted()
            };
            self.push(when, What::Call { who, through });
        }
        if self.rng.u8(0..4) == 0 {
            let who = self.unlisted();
            let when = at + self.rng.u64(0..8_000);
            self.push(
                when,
                What::Flood {
                    who,
                    requests: 1_100,
                },
            );
        }
        self.questions += 40;
    }

    /// Changes faults and addresses many times within ten minutes.
    fn storm(&mut self, at: u64) {
        let ttl = self.ttl(MINUTE * 10);
        let lasts = MINUTE * 10 * SECOND;
        for _ in 0..30 {
            let when = at + self.rng.u64(0..lasts);
            let what = match self.rng.u8(0..4) {
                0 => What::Gone {
                    host: self.host(),
                    gone: self.rng.bool(),
                },
                1 => {
                    let host = self.host();
                    let now = [self.some_addresses(), self.addresses()];
                    self.zone(when, host, now, ttl);
                    continue;
                }
                _ => What::Server {
                    server: self.rng.u8(0..2),
                    mood: *self.pick(&ALL),
                },
            };
            self.push(when, what);
        }
        self.cost(lasts / SECOND, 5);
        self.calls(at, at + lasts, 15);
        self.edges(at, lasts + self.setting.linger * SECOND, 8);
        for host in 0..HOSTS {
            self.push(at + lasts, What::Gone { host, gone: false });
            let now = [self.some_addresses(), self.addresses()];
            self.zone(at + lasts, host, now, CALM_TTL as u32);
        }
        for server in 0..2 {
            self.push(
                at + lasts,
                What::Server {
                    server,
                    mood: Mood::Well,
                },
            );
        }
    }

    fn rotation_of(&mut self, at: u64, host: u8) {
        let now = [self.some_addresses(), self.addresses()];
        self.zone(at, host, now, CALM_TTL as u32);
    }

    fn zone(&mut self, at: u64, host: u8, mut addresses: [u8; 2], ttl: u32) {
        // If no other configured host is in this host's zone, a denial of a whole family is never believed, and the
        // question goes out once a minute. A family must therefore not be empty for months.
        let mates = self.setting.hosts & ZONE & !(1 << host);
        if u64::from(ttl) == CALM_TTL && at > 0 && (ZONE >> host & 1 == 0 || mates == 0) {
            for of in &mut addresses {
                if *of == 0 {
                    *of = self.some_addresses();
                }
            }
        }
        for family in 0..2 {
            let addresses = addresses[usize::from(family)];
            self.push(
                at,
                What::Zone {
                    host,
                    family,
                    addresses,
                    ttl,
                },
            );
        }
    }

    fn calls(&mut self, from: u64, to: u64, times: u8) {
        for _ in 0..times {
            let at = self.rng.u64(from..to);
            let who = self.rng.u8(0..WHO);
            let through = self.stack();
            self.push(at, What::Call { who, through });
            self.questions += 4;
        }
    }

    fn edges(&mut self, at: u64, within: u64, times: u8) {
        for _ in 0..times {
            let when = at + self.rng.u64(0..within);
            let what = self.edge_call();
            self.push(when, what);
        }
    }

    fn push(&mut self, at: u64, what: What) {
        self.events.push(Event { at, what });
    }

    fn cost(&mut self, seconds: u64, every: u64) {
        let hosts = u64::from(self.setting.hosts.count_ones());
        self.questions += 2 * hosts * seconds / every.max(self.setting.min_ttl);
    }

    /// Draws a TTL that is in use for this number of seconds, and adds its questions to the estimate. The longer the
    /// TTL is in use, the longer it must be.
    fn ttl(&mut self, seconds: u64) -> u32 {
        let least = seconds / MAX_REFRESHES;
        let ttl = (*self.pick(&[0_u64, 10, 60, 60, 300, 1800])).max(least);
        self.cost(seconds, ttl + 1);
        u32::try_from(ttl).unwrap_or(u32::MAX)
    }

    /// Draws the length of an outage, in milliseconds: at most 44 h, and often longer than a window.
    fn length(&mut self) -> u64 {
        let stale = self.setting.stale_for;
        let longest = *self.pick(&[
            30,
            600,
            2 * HOUR,
            self.setting.max_ttl,
            stale,
            stale + 2 * HOUR,
        ]);
        let longest = longest.min(40 * HOUR);
        self.rng
            .u64(longest / 2..=longest + self.setting.max_ttl.min(4 * HOUR))
            * SECOND
    }

    fn host(&mut self) -> u8 {
        self.rng.u8(0..HOSTS)
    }

    fn member(&mut self, host: u8) -> u8 {
        host * 2 * POOL + self.rng.u8(0..2 * POOL)
    }

    fn unlisted(&mut self) -> u8 {
        self.rng.u8(HOSTS * 2 * POOL..WHO)
    }

    fn some_addresses(&mut self) -> u8 {
        self.rng.u8(1..1 << POOL)
    }

    fn addresses(&mut self) -> u8 {
        match self.rng.u8(0..3) {
            0 => 0,
            _ => self.some_addresses(),
        }
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.rng.usize(0..of.len())]
    }
}

const FAILING: [Mood; 10] = [
    Mood::ServFail,
    Mood::Refused,
    Mood::ErrorCode,
    Mood::Malformed,
    Mood::Truncated,
    Mood::Bogus,
    Mood::BrokenChain,
    Mood::Unreachable,
    Mood::Silent,
    Mood::TooMany,
];

const ALL: [Mood; 10] = [
    Mood::Well,
    Mood::Well,
    Mood::Well,
    Mood::ServFail,
    Mood::Silent,
    Mood::Lossy,
    Mood::Denies,
    Mood::Empty,
    Mood::Portal,
    Mood::Rebinds,
];

/// Number of hosts that can be configured.
pub(crate) const HOSTS: u8 = 4;

/// Hosts in the same zone, with one bit for each host.
const ZONE: u8 = 0b1011;

/// Number of addresses that a host can have in each family.
pub(crate) const POOL: u8 = 6;

/// Number of callers. The first callers are the addresses of all hosts. No host lists the other callers.
pub(crate) const WHO: u8 = HOSTS * 2 * POOL + UNLISTED;

/// Number of callers that no host lists. The last two are servers of the test environment, which the list watches.
pub(crate) const UNLISTED: u8 = 8;

pub(crate) const YEAR: u64 = 365 * 24 * HOUR;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// TTL of the provider's answers outside episodes, in seconds.
const CALM_TTL: u64 = 24 * HOUR;

/// Number of questions above which no further episode is drawn. A run may ask at most 100,000.
const MAX_QUESTIONS: u64 = 70_000;
const MAX_EPISODES: u32 = 120;

/// Maximum number of refreshes of a question while its TTL is short.
const MAX_REFRESHES: u64 = 600;

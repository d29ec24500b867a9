//! Reloads the configuration file while the server runs.
//!
//! 1. The file is reloaded at SIGHUP, and when its content has [changed](super::watch).
//! 2. The configuration in the file is applied as a whole or not at all. The previous configuration stays in force if
//!    the file cannot be read or has lost all keys, if a value is invalid, or if a change needs a restart.
//! 3. Added hosts are looked up, for at most 6 s, before anything is removed, so that no listed peer becomes undecided
//!    during the reload.
//!
//! A reload closes no listener and no connection. Each request is judged with the checks that are in force when the
//! request starts.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use callback_source::{AllowList, AllowListBuilder, HostName, set::QuestionStatus};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

#[cfg(feature = "ext-authz")]
use super::ext_authz_service::Authorization;
use super::{
    app::App, service_manager::ServiceManager, status::VerdictCounts, trust::Trust, watch::Watch,
};
use crate::{
    args::{
        Command, ConfigFile, Invocation, ServeArgs, Setting, all, is_reloadable, read_config_file,
    },
    config::{self, Proxies, Subject},
    error::Error,
    journal::{Event, Journal},
    log, output,
};

/// The configuration in force, and the requests to reload it.
#[derive(Debug)]
pub(super) struct ReloadSource {
    pub(super) settings: Vec<Setting>,
    pub(super) file: Option<ConfigFile>,
    pub(super) requested: Arc<Notify>,
}

/// Everything that a reload uses or changes.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) app: Arc<App>,
    pub(super) journal: Option<Journal>,
    #[cfg(feature = "ext-authz")]
    pub(super) authorization: Authorization,
    pub(super) counts: Arc<VerdictCounts>,
    pub(super) list: AllowList,
    pub(super) trust: Trust,
    pub(super) source: ReloadSource,
    pub(super) manager: ServiceManager,
}

impl Reloader {
    /// Reloads the file at each SIGHUP and at each change of the file, forever.
    pub(super) async fn run(mut self) {
        let Some(file) = &self.source.file else {
            loop {
                self.source.requested.notified().await;
                self.manager.reloading();
                self.manager.ready();
                info!("SIGHUP is ignored: without `--config`, there is nothing to reload");
            }
        };
        let path = file.path.clone();
        let mut watch = Watch::new(file.content.clone());
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_readable = true;
        loop {
            let is_requested = tokio::select! {
                () = self.source.requested.notified() => true,
                _ = looks.tick() => false,
            };
            if is_requested {
                self.manager.reloading();
            }
            match read(path.clone()).await {
                Ok(content) => {
                    is_readable = true;
                    let content = match is_requested {
                        true => {
                            watch.take(content.clone());
                            Some(content)
                        }
                        false => watch.look(content),
                    };
                    if let Some(content) = content {
                        self.reload(content).await;
                    }
                }
                // A file that cannot be read is reported once and at each SIGHUP, not at each regular read.
                Err(error) if is_requested || is_readable => {
                    is_readable = false;
                    self.refuse(&error);
                }
                Err(_) => {}
            }
            if is_requested {
                self.manager.ready();
            }
        }
    }

    async fn reload(&mut self, content: String) {
        match self.prepare(content) {
            Ok(prepared) if prepared.changed.is_empty() => {
                self.source.file = prepared.file;
                info!("configuration reloaded: nothing has changed");
            }
            Ok(prepared) => {
                let changed = prepared.changed.clone();
                self.apply(prepared).await;
                info!(changed = changed.join(","), "configuration reloaded");
                if let Some(journal) = &self.journal {
                    journal.record(Event::Reloaded { changed });
                }
            }
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&self, error: &Error) {
        let text = error.to_string();
        // Errors of clap have several lines. The first paragraph is logged.
        let text = text.lines().take_while(|line| !line.is_empty());
        let text = text.map(str::trim).collect::<Vec<_>>().join(" ");
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let causes = output::causes(error);
        warn!("configuration not reloaded, the previous one stays in force: {text}{causes}");
        if let Some(journal) = &self.journal {
            let error = format!("{text}{causes}");
            journal.record(Event::ReloadRefused { error });
        }
    }

    /// Parses and checks the new configuration without applying it.
    fn prepare(&self, content: String) -> Result<Prepared, Error> {
        let invocation = Invocation::again(std::env::args_os(), content)?;
        let Invocation {
            command: Command::Serve(args),
            settings,
            file,
        } = invocation
        else {
            unreachable!("the command line is that of the start");
        };
        let had_keys = self
            .source
            .file
            .as_ref()
            .is_some_and(|file| !file.is_empty());
        if had_keys && file.as_ref().is_none_or(ConfigFile::is_empty) {
            return Err(Error::NoKeysLeft);
        }
        let pairs = settings.iter().zip(&self.source.settings);
        let changed = pairs.filter(|(new, old)| new.values != old.values);
        let changed: Vec<_> = changed.map(|(new, _)| new.key.clone()).collect();
        if let Some(key) = changed.iter().find(|key| !is_reloadable(key)) {
            return Err(Error::NeedsRestart(key.clone()));
        }
        // This call only checks the values. The running list is changed in place.
        let _: AllowListBuilder = config::list(&args.common, Subject::Callers)?;
        Ok(Prepared {
            filter: log::filter(&args.common)?,
            proxies: Proxies::from_serve_args(&args)?,
            args,
            settings,
            file,
            changed,
        })
    }

    async fn apply(&mut self, prepared: Prepared) {
        let Prepared {
            args,
            settings,
            file,
            changed,
            filter,
            proxies,
        } = prepared;
        let has_changed = |keys: &[&str]| changed.iter().any(|key| keys.contains(&key.as_str()));
        if has_changed(&["log"]) {
            log::set_filter(filter);
        }
        if has_changed(&["linger", "stale-for"]) {
            let common = &args.common;
            self.list.replace_windows(common.linger, common.stale_for);
        }
        let networks = all(&args.common.allow);
        if has_changed(&["allow"]) {
            // Removed networks stay until the hosts that may replace them have been looked up. If the old and the new
            // networks together cover a whole address family, the new networks are not added yet.
            let removed: Vec<_> = self.list.snapshot().networks().collect();
            let both = removed.into_iter().chain(networks.iter().copied());
            let _ = self.list.replace_networks(both);
        }
        let hosts = config::hosts(&args.common, Subject::Callers);
        self.replace_hosts(hosts, has_changed(&["allow"])).await;
        if has_changed(&["allow"])
            && let Err(error) = self.list.replace_networks(networks)
        {
            // No error is expected, since `prepare` has checked the networks.
            warn!("the networks stay as they were: {error}");
        }
        // The checks are replaced last. If the reload ends report-only mode, the server therefore already knows the new
        // hosts when it begins to refuse callers.
        self.trust.replace(proxies.trusted.clone());
        #[cfg(feature = "ext-authz")]
        self.authorization.reconfigure(
            self.list.clone(),
            &args,
            &proxies,
            Arc::clone(&self.counts),
        );
        self.app.reconfigure(&args, &proxies);
        self.source.settings = settings;
        self.source.file = file;
    }

    /// Replaces the hosts. Removed hosts stay until the added hosts have been looked up, but at most for
    /// [`LOOKUP_LIMIT`]. If a host is replaced by another name of the same servers, these servers stay admitted during
    /// the reload.
    async fn replace_hosts(&self, hosts: Vec<HostName>, networks_change: bool) {
        let current: BTreeSet<_> = self.list.snapshot().hosts().cloned().collect();
        let added = hosts.iter().filter(|host| !current.contains(host));
        let added: BTreeSet<_> = added.cloned().collect();
        let is_removing = current.iter().any(|host| !hosts.contains(host));
        if !added.is_empty() && (is_removing || networks_change) {
            let both = current.iter().cloned().chain(added.iter().cloned());
            self.list.replace_hosts(both);
            let start = Instant::now();
            while start.elapsed() < LOOKUP_LIMIT && self.is_unasked(&added) {
                sleep(LOOKUP_CHECK).await;
            }
        }
        if !added.is_empty() || is_removing {
            self.list.replace_hosts(hosts);
        }
    }

    fn is_unasked(&self, hosts: &BTreeSet<HostName>) -> bool {
        let health = self.list.health();
        let mut added = health.iter().filter(|health| hosts.contains(&health.host));
        added.any(|health| {
            let mut families = health.families.iter();
            families.any(|family| family.state == QuestionStatus::Unasked)
        })
    }
}

/// Valid configuration that can be applied.
struct Prepared {
    args: ServeArgs,
    settings: Vec<Setting>,
    file: Option<ConfigFile>,
    /// Keys with new values.
    changed: Vec<String>,
    filter: tracing_subscriber::EnvFilter,
    proxies: Proxies,
}

/// Reads the file on a separate thread, because a disk that does not respond must not block the server.
async fn read(path: PathBuf) -> Result<String, Error> {
    match spawn_blocking(move || read_config_file(&path)).await {
        Ok(read) => read,
        Err(error) => Err(Error::Start(error.into())),
    }
}

/// Interval at which the file is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum time for which removed hosts stay. A lookup takes at most 5 s.
const LOOKUP_LIMIT: Duration = Duration::from_secs(6);

const LOOKUP_CHECK: Duration = Duration::from_millis(20);

//! Which layers one launch gets: what the host allows, what the policy asks for, and what must not be missing.

use std::collections::BTreeMap;

use super::{clone::Namespaces, identity::Identity, second_wall};
use crate::domain::sandbox::{Layer, Network, Profile, Sandbox};

/// What this host allows, found by trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    /// The namespaces of every launch, that of the network aside.
    pub(super) namespaces: Namespaces,
    /// Whether a network namespace can be made.
    pub(super) net: bool,
    /// Whether the kernel can put a root of its own together (Linux 5.12).
    pub(super) private_root: bool,
    /// Whether there is a filter of system calls.
    pub(super) filter: bool,
    /// Landlock's version; 0: none.
    pub(super) landlock: i32,
    /// Whether we, and so the servers, are the host's root.
    pub(super) as_root: bool,
    /// Whether a cgroup of its own can hold memory, processes and CPU time.
    pub(super) cgroup_limits: bool,
    /// Whether we can become any other user, and still give it all the rest.
    pub(super) own_user: bool,
    /// Whether that user can have a user namespace of its own.
    pub(super) own_user_namespace: bool,
}

/// What one launch gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layers {
    pub(super) profile: Profile,
    pub(super) namespaces: Namespaces,
    pub(super) private_root: bool,
    pub(super) filter: bool,
    pub(super) no_capabilities: bool,
    /// Landlock's version; 0: none.
    pub(super) landlock: i32,
    /// Whether the server is the host's root, if without capabilities.
    pub(super) as_root: bool,
    /// Whether its cgroup holds memory, processes and CPU time.
    pub(super) cgroup_limits: bool,
    /// As whom it runs.
    pub(super) identity: Identity,
    /// Whether its user namespace is made once it has become its own user, and not with the others.
    pub(super) user_namespace_later: bool,
    /// What of the network it reaches.
    pub(super) network: Network,
}

impl Host {
    /// The layers of a launch.
    ///
    /// # Errors
    /// A sentence that names the missing layer and how to get it. Nothing is started then.
    pub(super) fn layers(&self, sandbox: &Sandbox, identity: Identity) -> Result<Layers, String> {
        let profile = sandbox.profile;
        let on = profile != Profile::Off;
        let strict = profile == Profile::Strict;
        let own = matches!(identity, Identity::Own(_));
        let own_network = sandbox.network != Network::Open;
        if own_network && !self.net {
            let how = Layer::PidNamespace.remedy();
            return Err(format!(
                "its template asks for network = \"{}\", and this host allows no network namespace: {how}; or let \
                 its template choose network = \"open\" (sandbox.widest_network in config.toml)",
                sandbox.network.word()
            ));
        }
        let layers = Layers {
            profile,
            namespaces: Namespaces {
                user: self.namespaces.user && !own,
                ipc: on && self.namespaces.ipc,
                cgroup: on && self.namespaces.cgroup,
                net: own_network,
                ..self.namespaces
            },
            private_root: strict && self.private_root,
            filter: on && self.filter,
            no_capabilities: on,
            landlock: if strict { self.landlock } else { 0 },
            as_root: self.as_root && !own,
            cgroup_limits: self.cgroup_limits,
            identity,
            user_namespace_later: own && self.own_user_namespace,
            network: sandbox.network,
        };
        if on && !layers.filter {
            return Err(self.missing(Layer::SystemCalls, profile));
        }
        if strict && !layers.private_root && layers.landlock == 0 {
            return Err(format!(
                "{}; nor does Landlock, which could stand in for it",
                self.missing(Layer::PrivateRoot, profile)
            ));
        }
        let missing = sandbox.require.iter().find(|layer| !layers.has(**layer));
        match missing {
            Some(layer) => Err(format!(
                "its template requires {}: {}",
                layer.word(),
                layer.remedy()
            )),
            None => Ok(layers),
        }
    }

    fn missing(&self, layer: Layer, profile: Profile) -> String {
        format!(
            "the layer {} of the profile {} does not hold on this host: {}; or let its template choose a weaker \
             profile (sandbox.weakest_profile in config.toml)",
            layer.word(),
            profile.word(),
            layer.remedy()
        )
    }
}

impl Layers {
    /// The user that is the instance's alone, if it has one.
    pub(super) fn own_user(&self) -> Option<u32> {
        match self.identity {
            Identity::Own(uid) => Some(uid),
            Identity::Keepers(_) => None,
        }
    }

    fn has(&self, layer: Layer) -> bool {
        match layer {
            Layer::PidNamespace => self.namespaces.pid,
            Layer::UserNamespace => self.namespaces.user || self.user_namespace_later,
            Layer::OwnUser => self.own_user().is_some(),
            Layer::PrivateRoot => self.private_root,
            Layer::IpcNamespace => self.namespaces.ipc,
            Layer::NoCapabilities => self.no_capabilities,
            Layer::SystemCalls => self.filter,
            Layer::Landlock => self.landlock > 0,
            Layer::CgroupLimits => self.cgroup_limits,
        }
    }

    /// Whether the kernel counts the processes of this instance alone.
    pub(super) fn counts_processes(&self) -> bool {
        self.namespaces.user || self.own_user().is_some()
    }

    /// Layer to state, in words.
    pub(super) fn report(&self) -> BTreeMap<String, String> {
        let Namespaces { mount, .. } = self.namespaces;
        let because = match self.profile {
            Profile::Strict => "off: this host does not allow it",
            Profile::Relaxed => "off: not part of the profile relaxed, or not allowed by this host",
            Profile::Off => "off: the profile is off",
        };
        let mut words: BTreeMap<String, String> = Layer::ALL
            .into_iter()
            .map(|layer| {
                let state = match layer {
                    Layer::Landlock if (1..second_wall::WITH_SCOPES).contains(&self.landlock) => {
                        format!("on: files only (version {})", self.landlock)
                    }
                    layer if self.has(layer) => "on".into(),
                    Layer::PidNamespace => {
                        "off: the process tree is found and killed process by process".into()
                    }
                    Layer::UserNamespace => "off".into(),
                    Layer::CgroupLimits => {
                        "off: no part of the cgroup tree, or not every controller".into()
                    }
                    Layer::OwnUser => match self.identity {
                        Identity::Keepers(why) => format!("off: {}", why.reason()),
                        Identity::Own(_) => "on".into(),
                    },
                    _ => because.into(),
                };
                (layer.word().to_owned(), state)
            })
            .collect();
        let own_proc = if mount {
            "on"
        } else {
            "off: /proc shows the whole host"
        };
        let processes = if self.as_root {
            "off: the kernel does not count the processes of root; run the keeper as another user"
        } else if self.counts_processes() {
            "on: by RLIMIT_NPROC"
        } else {
            "off: without a user namespace of its own the limit would count every process of this user"
        };
        let identity = match self.identity {
            Identity::Own(uid) => format!("user {uid}, of this instance alone"),
            Identity::Keepers(_) if self.as_root => "root, as which the keeper runs".into(),
            Identity::Keepers(_) => "the user as whom the keeper runs".into(),
        };
        words.insert("identity".to_owned(), identity);
        let network = match self.network {
            Network::None => "none: nothing but a loopback of its own",
            Network::AllowList => "allow-list: the hosts named for it, through the gate",
            Network::Learn => "learn: every public host, through the gate, which records them",
            Network::Open => "open: whatever this host reaches",
        };
        for (name, state) in [
            ("profile", self.profile.word()),
            ("own-proc", own_proc),
            ("no-new-privs", "on"),
            ("limits", "on"),
            ("limit-processes", processes),
            ("network", network),
        ] {
            words.insert(name.to_owned(), state.to_owned());
        }
        words
    }
}

/// A host of a plain user that allows everything.
#[cfg(test)]
pub(super) const ALL: Host = Host {
    namespaces: Namespaces {
        user: true,
        pid: true,
        mount: true,
        ipc: true,
        cgroup: true,
        net: false,
    },
    net: true,
    private_root: true,
    filter: true,
    landlock: 6,
    as_root: false,
    cgroup_limits: true,
    own_user: false,
    own_user_namespace: false,
};

#[cfg(test)]
mod tests {
    use super::{super::identity::Shared, *};

    const PLAIN: Identity = Identity::Keepers(Shared::NotRoot);

    fn strict() -> Sandbox {
        Sandbox::default()
    }

    #[test]
    fn each_missing_layer_that_is_required_stops_the_launch_and_is_named() {
        let none = Host {
            namespaces: Namespaces::NONE,
            net: false,
            private_root: false,
            filter: true,
            landlock: 1,
            as_root: false,
            cgroup_limits: false,
            own_user: false,
            own_user_namespace: false,
        };
        for layer in Layer::ALL {
            let sandbox = Sandbox {
                require: vec![layer],
                ..strict()
            };
            let all = ALL.layers(&sandbox, Identity::Own(70_000));
            // One with a user of its own has its namespace later, as the next test tells.
            let all = all.or_else(|_| ALL.layers(&sandbox, PLAIN));
            all.expect("all layers hold");
            let lacking = match layer {
                Layer::NoCapabilities => continue,
                Layer::OwnUser => ALL,
                Layer::CgroupLimits => Host {
                    cgroup_limits: false,
                    ..ALL
                },
                Layer::SystemCalls => Host {
                    filter: false,
                    ..none
                },
                Layer::Landlock => Host { landlock: 0, ..ALL },
                _ => none,
            };
            let sentence = lacking.layers(&sandbox, PLAIN).expect_err("one is missing");
            assert!(sentence.contains(layer.word()), "{sentence}");
            assert!(sentence.contains(layer.remedy()), "{sentence}");
        }
    }

    #[test]
    fn with_a_user_of_its_own_it_is_not_root_and_its_user_namespace_comes_later() {
        let root = Host {
            as_root: true,
            own_user: true,
            own_user_namespace: true,
            ..ALL
        };
        let own = root
            .layers(&strict(), Identity::Own(70_000))
            .expect("it starts");
        assert!(!own.namespaces.user && own.user_namespace_later);
        let report = own.report();
        assert_eq!(report["own-user"], "on");
        assert_eq!(report["user-namespace"], "on");
        assert!(report["limit-processes"].starts_with("on"), "{report:?}");
        assert!(report["identity"].contains("70000"), "{report:?}");
        let shared = root
            .layers(&strict(), Identity::Keepers(Shared::Grants))
            .expect("it starts");
        assert!(shared.namespaces.user && !shared.user_namespace_later);
        let report = shared.report();
        assert!(report["own-user"].contains("granted"), "{report:?}");
        assert!(report["identity"].starts_with("root"), "{report:?}");
        let none = Host {
            own_user_namespace: false,
            ..root
        };
        let none = none
            .layers(&strict(), Identity::Own(70_000))
            .expect("it starts");
        assert_eq!(none.report()["user-namespace"], "off");
    }

    #[test]
    fn strict_starts_nothing_without_a_wall_around_files() {
        let bare = Host {
            private_root: false,
            landlock: 0,
            ..ALL
        };
        let sentence = bare.layers(&strict(), PLAIN).expect_err("no wall");
        assert!(sentence.contains("private-root"), "{sentence}");
        let either = Host {
            landlock: 1,
            ..bare
        };
        let layers = either.layers(&strict(), PLAIN).expect("Landlock stands in");
        assert!(layers.report()["landlock"].starts_with("on: files only"));
        assert!(layers.report()["private-root"].starts_with("off"));
        let relaxed = Sandbox {
            profile: Profile::Relaxed,
            ..strict()
        };
        bare.layers(&relaxed, PLAIN).expect("relaxed needs no wall");
    }

    #[test]
    fn no_network_is_never_an_open_one() {
        let closed = Sandbox {
            network: Network::None,
            ..strict()
        };
        let without = Host { net: false, ..ALL };
        for network in [Network::None, Network::AllowList, Network::Learn] {
            let closed = Sandbox {
                network,
                ..closed.clone()
            };
            assert!(ALL.layers(&closed, PLAIN).expect("allowed").namespaces.net);
            let sentence = without.layers(&closed, PLAIN).expect_err("refused");
            assert!(sentence.contains(network.word()), "{sentence}");
        }
    }

    #[test]
    fn off_is_reported_as_off() {
        let off = Sandbox {
            profile: Profile::Off,
            ..strict()
        };
        let report = ALL.layers(&off, PLAIN).expect("it starts").report();
        assert_eq!(report["profile"], "off");
        for layer in [
            Layer::PrivateRoot,
            Layer::SystemCalls,
            Layer::NoCapabilities,
            Layer::Landlock,
        ] {
            assert!(report[layer.word()].starts_with("off"), "{layer:?}");
        }
    }
}

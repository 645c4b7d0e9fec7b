use proptest::prelude::*;

use super::*;

/// Paths over few names, so that they often lie in each other.
fn path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec("[ab]", 0..4).prop_map(|names| {
        names
            .iter()
            .fold(PathBuf::from("/"), |path, name| path.join(name))
    })
}

fn paths() -> impl Strategy<Value = Vec<PathBuf>> {
    proptest::collection::vec(path(), 0..4)
}

fn template() -> TemplateName {
    TemplateName::new("odd").expect("a name")
}

fn profile() -> impl Strategy<Value = Profile> {
    prop_oneof![
        Just(Profile::Strict),
        Just(Profile::Relaxed),
        Just(Profile::Off)
    ]
}

prop_compose! {
    fn ceiling()(
        weakest_profile in profile(),
        allow_read in paths(),
        allow_write in paths(),
        hidden in paths(),
    ) -> Ceiling {
        Ceiling { weakest_profile, allow_read, allow_write, hidden, ..Ceiling::default() }
    }
}

prop_compose! {
    fn spec()(profile in profile(), read in paths(), write in paths()) -> SandboxSpec {
        SandboxSpec { profile, read, write, ..SandboxSpec::default() }
    }
}

fn below(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

proptest! {
    #[test]
    fn nothing_is_given_beyond_the_ceiling(ceiling in ceiling(), spec in spec(), more in paths()) {
        let wanted: Vec<_> = more.into_iter().map(|path| (path, Access::Write)).collect();
        if let Ok(given) = ceiling.decide(&template(), &spec, &wanted, &[], Vec::new()) {
            prop_assert!(given.profile <= ceiling.weakest_profile);
            for path in given.read.iter().chain(&given.write) {
                prop_assert!(shows(path, &ceiling.hidden).is_none(), "deny beats allow: {path:?}");
            }
            for path in &given.write {
                prop_assert!(below(path, &ceiling.allow_write), "{path:?}");
            }
            for path in &given.read {
                let allowed = below(path, &ceiling.allow_read) || below(path, &ceiling.allow_write);
                prop_assert!(allowed, "{path:?}");
            }
            prop_assert_eq!(given.network, spec.network);
        }
    }

    #[test]
    fn a_lower_ceiling_never_gives_more(ceiling in ceiling(), spec in spec(), hide in path()) {
        let mut lower = ceiling.clone();
        lower.hidden.push(hide);
        lower.allow_write.pop();
        lower.weakest_profile = Profile::Strict;
        let (high, low) = (ceiling.decide(&template(), &spec, &[], &[], Vec::new()), lower.decide(&template(), &spec, &[], &[], Vec::new()));
        if let Ok(low) = low {
            let high = high.expect("what a lower ceiling gives, a higher one gives too");
            prop_assert_eq!(low.profile, high.profile);
            prop_assert_eq!(low.read, high.read);
            prop_assert_eq!(low.write, high.write);
        }
    }

    #[test]
    fn each_fault_is_named(ceiling in ceiling(), spec in spec()) {
        if let Err(denials) = ceiling.decide(&template(), &spec, &[], &[], Vec::new()) {
            prop_assert!(!denials.is_empty());
            let faulty = spec.read.iter().filter(|path| ceiling.grants(path, Access::Read).is_err()).count()
                + spec.write.iter().filter(|path| ceiling.grants(path, Access::Write).is_err()).count()
                + usize::from(spec.profile > ceiling.weakest_profile);
            prop_assert_eq!(denials.len(), faulty);
        }
    }
}

#[test]
fn an_exception_is_for_one_template_and_goes_no_further_than_it_says() {
    let exception = Exception {
        template: template(),
        profile: Profile::Relaxed,
        reason: "the host's fonts".into(),
    };
    let ceiling = Ceiling {
        exceptions: vec![exception],
        ..Ceiling::default()
    };
    let other = TemplateName::new("other").expect("a name");
    let of = |template: &TemplateName, profile| {
        let spec = SandboxSpec {
            profile,
            ..SandboxSpec::default()
        };
        ceiling.decide(template, &spec, &[], &[], Vec::new())
    };
    let given = of(&template(), Profile::Relaxed).expect("it is the one");
    assert_eq!(given.profile_reason.as_deref(), Some("the host's fonts"));
    let strict = of(&template(), Profile::Strict).expect("everybody may");
    assert_eq!(strict.profile_reason, None);
    let off = vec![Denial::Profile(Profile::Off)];
    assert_eq!(of(&template(), Profile::Off), Err(off));
    let relaxed = vec![Denial::Profile(Profile::Relaxed)];
    assert_eq!(of(&other, Profile::Relaxed), Err(relaxed));
}

#[test]
fn the_denial_names_the_missing_grant() {
    let ceiling = Ceiling {
        hidden: vec!["/var/lib/minimcp/data/master-key".into()],
        allow_write: vec!["/var".into()],
        ..Ceiling::default()
    };
    let denied = |path: &str, access| {
        let denial = ceiling.grants(Path::new(path), access).expect_err(path);
        denial.to_string()
    };
    assert!(denied("/srv/notes", Access::Write).contains("sandbox.allow_write"));
    assert!(denied("/srv/notes", Access::Read).contains("sandbox.allow_read"));
    assert!(denied("/var/lib", Access::Read).contains("/var/lib/minimcp/data/master-key"));
    assert!(denied("/var/../etc", Access::Read).contains("absolute"));
    assert!(denied("notes", Access::Read).contains("absolute"));
    let off = SandboxSpec {
        profile: Profile::Off,
        ..SandboxSpec::default()
    };
    let denials = ceiling
        .decide(&template(), &off, &[], &[], Vec::new())
        .expect_err("not allowed");
    assert!(
        denials[0]
            .to_string()
            .contains("sandbox.weakest_profile = \"off\"")
    );
    ceiling
        .grants(Path::new("/var/log"), Access::Read)
        .expect("what may be written may be read");
}

#[test]
fn the_network_is_as_wide_as_the_operator_says() {
    let asks = |network, hosts: &[&str]| SandboxSpec {
        network,
        hosts: hosts.iter().map(|text| text.parse().expect(text)).collect(),
        ..SandboxSpec::default()
    };
    let told = |ceiling: &Ceiling, spec| {
        let denials = ceiling.decide(&template(), &spec, &[], &[], Vec::new());
        denials.err().map(|denials| {
            let sentences: Vec<String> = denials.iter().map(Denial::to_string).collect();
            sentences.join("; ")
        })
    };
    let list = Ceiling::default();
    let none = Ceiling {
        widest_network: Network::None,
        ..Ceiling::default()
    };
    let open = Ceiling {
        widest_network: Network::Open,
        ..Ceiling::default()
    };
    let named = "api.example.com:443";
    assert_eq!(told(&list, asks(Network::AllowList, &[named])), None);
    let denial = told(&list, asks(Network::Open, &[])).expect("too wide");
    assert!(
        denial.contains("sandbox.widest_network = \"open\""),
        "{denial}"
    );
    let denial = told(&list, asks(Network::Learn, &[])).expect("too wide");
    assert!(
        denial.contains("sandbox.widest_network = \"learn\""),
        "{denial}"
    );
    let denial = told(&list, asks(Network::AllowList, &["*:443"])).expect("too wide");
    assert!(denial.contains("*:443 stands for every host"), "{denial}");
    assert!(told(&none, asks(Network::AllowList, &[named])).is_some());
    for network in [
        Network::None,
        Network::AllowList,
        Network::Learn,
        Network::Open,
    ] {
        assert_eq!(told(&open, asks(network, &["*:443"])), None);
    }
}

#[test]
fn settings_widen_the_list_and_the_keeper_hears_of_ports_alone() {
    let ceiling = Ceiling {
        denied_hosts: vec!["evil.example.com".parse().expect("a name")],
        ..Ceiling::default()
    };
    let spec = SandboxSpec {
        hosts: vec!["api.example.com:443".parse().expect("a rule")],
        ..SandboxSpec::default()
    };
    let more = ["evil.example.com:8443".parse().expect("a rule")];
    let sandbox = ceiling
        .decide(&template(), &spec, &[], &more, Vec::new())
        .expect("allowed");
    assert_eq!(sandbox.caught.ports, [80, 443, 8443]);
    assert!(sandbox.egress.connects("api.example.com", 443).is_ok());
    assert!(
        sandbox.egress.connects("evil.example.com", 8443).is_err(),
        "deny beats allow"
    );
    let wire = serde_json::to_string(&sandbox).expect("writable");
    assert!(!wire.contains("example.com"), "{wire}");
    let offline = SandboxSpec {
        network: Network::None,
        ..spec
    };
    let sandbox = ceiling.decide(&template(), &offline, &[], &more, Vec::new());
    assert_eq!(sandbox.expect("allowed").egress, Egress::default());
}

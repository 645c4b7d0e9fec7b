use proptest::prelude::*;

use super::*;

fn rule(text: &str) -> HostRule {
    text.parse().expect(text)
}

fn egress(hosts: &[&str], denied: &[&str]) -> Egress {
    Egress {
        hosts: hosts.iter().map(|text| rule(text)).collect(),
        denied: denied
            .iter()
            .map(|text| text.parse().expect(text))
            .collect(),
        learns: false,
        brokers: Vec::new(),
    }
}

#[test]
fn rules_are_read_in_one_form_and_faults_are_told() {
    for (text, one_form) in [
        ("API.Example.com:443", "api.example.com:443"),
        ("api.example.com.:80", "api.example.com:80"),
        ("*.example.com:8443", "*.example.com:8443"),
        ("*:443", "*:443"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("[::ffff:10.0.0.1]:443", "10.0.0.1:443"),
        ("localhost:9", "localhost:9"),
    ] {
        assert_eq!(rule(text).to_string(), one_form);
    }
    for text in [
        "",
        "example.com",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:+443",
        "2001:db8::1:443",
        "https://example.com:443",
    ] {
        let fault = text.parse::<HostRule>().expect_err(text);
        assert!(matches!(fault, RuleFault::Port(_)), "{text}: {fault}");
    }
    for text in [
        ":443",
        "*.*.example.com:443",
        "a.*.com:443",
        "**:443",
        "exa mple.com:443",
        "a..b:443",
        "127.1:443",
        "2130706433:443",
        "a.0x7f:443",
    ] {
        let fault = text.parse::<HostRule>().expect_err(text);
        assert!(matches!(fault, RuleFault::Host(_)), "{text}: {fault}");
    }
}

#[test]
fn a_star_stands_for_one_label() {
    let egress = egress(&["*.example.com:443"], &[]);
    egress.connects("a.example.com", 443).expect("one label");
    for name in [
        "example.com",
        "a.b.example.com",
        "aexample.com",
        ".example.com",
        "example.com.evil",
    ] {
        assert_eq!(egress.resolves(name), Err(Refused::NotAllowed), "{name}");
    }
}

#[test]
fn deny_beats_allow_and_a_wrong_port_is_told_as_such() {
    let egress = egress(
        &["*:443", "mail.example.com:25", "192.0.2.1:80"],
        &["evil.example.com", "192.0.2.2"],
    );
    assert_eq!(
        egress.connects("evil.example.com", 443),
        Err(Refused::Denied)
    );
    assert_eq!(egress.connects("mail.example.com", 22), Err(Refused::Port));
    egress.connects("mail.example.com", 25).expect("allowed");
    egress.connects("anything.else", 443).expect("allowed");
    let at = |text: &str, port| egress.connects_to(text.parse().expect(text), port);
    at("192.0.2.1", 80).expect("allowed");
    at("::ffff:192.0.2.1", 80).expect("the same");
    assert_eq!(at("192.0.2.1", 443), Err(Refused::Port));
    assert_eq!(at("192.0.2.2", 443), Err(Refused::Denied));
    assert_eq!(at("192.0.2.3", 443), Err(Refused::NotAllowed));
}

#[test]
fn what_is_caught_is_what_rules_name_and_what_can_be_told() {
    let caught = egress(&["a.example.com:8443", "10.0.0.1:9"], &[])
        .catches()
        .expect("few");
    assert_eq!(caught.ports, [9, 80, 443, 8443]);
    assert_eq!(
        caught.addresses,
        ["10.0.0.1".parse::<IpAddr>().expect("one")]
    );
    let many = (1..=49).map(|port| rule(&format!("a.example.com:{port}")));
    let many = Egress {
        hosts: many.collect(),
        ..Egress::default()
    };
    assert_eq!(many.catches(), Err(49));
    let learns = Egress {
        learns: true,
        ..Egress::default()
    };
    learns.connects("a.b.c", 5432).expect("it learns");
    assert!(learns.catches().expect("few").ports.contains(&5432));
    assert_eq!(
        learns.connects_to([1, 1, 1, 1].into(), 443),
        Err(Refused::NotAllowed)
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_reads_reads_back(text in "[a-z0-9.:*\\[\\]_-]{0,40}") {
        if let Ok(rule) = text.parse::<HostRule>() {
            prop_assert_eq!(rule.to_string().parse::<HostRule>(), Ok(rule));
        }
    }

    #[test]
    fn a_name_in_its_one_form_stays(text in "\\PC{0,60}") {
        if let Some(one) = name(&text) {
            prop_assert_eq!(name(&one), Some(one.clone()));
            prop_assert!(one.is_ascii());
        }
    }

    #[test]
    fn more_denials_never_allow_more(label in "[ab]{1,2}", denied in "[ab]{1,2}", port in 1_u16..4) {
        let name = format!("{label}.com");
        let open = egress(&["*.com:1", "aa.com:2"], &[]);
        let closed = egress(&["*.com:1", "aa.com:2"], &[&format!("{denied}.com")]);
        if closed.connects(&name, port).is_ok() {
            prop_assert!(open.connects(&name, port).is_ok());
        }
    }
}

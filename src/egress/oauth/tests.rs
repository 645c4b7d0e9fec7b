use super::*;
use crate::domain::id::EnvName;

const JSON: &str = r#"{"type":"authorized_user","client_id":"client-1","client_secret":"real client&secret",
    "refresh_token":"1//real-refresh"}"#;

fn name(text: &str) -> EnvName {
    EnvName::new(text).expect("a name")
}

fn form() -> AccessTokenForm {
    AccessTokenForm {
        header: "Authorization".to_owned(),
        format: "Bearer {}".to_owned(),
        placeholder: "held".to_owned(),
    }
}

fn tokens(values: &[(&str, &str)]) -> Tokens {
    let bound = |variable: &str| {
        let is_bound = values.iter().any(|(name, _)| *name == variable);
        is_bound.then(|| name(variable))
    };
    let grant = RefreshGrant {
        json: bound("JSON"),
        client_secret: bound("SECRET"),
        refresh_token: bound("REFRESH"),
        placeholder: "held".to_owned(),
    };
    let values = values.iter();
    let keys = Keys {
        values: values
            .map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned())))
            .collect(),
        redactions: Arc::default(),
    };
    Tokens::new(&grant, &keys)
}

fn parts() -> Tokens {
    tokens(&[
        ("SECRET", "real client&secret\n"),
        ("REFRESH", "1//real-refresh"),
    ])
}

fn headers(basic: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
    headers.insert(CONTENT_TYPE, kind);
    if let Some(pair) = basic {
        let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
        headers.insert(AUTHORIZATION, value.parse().expect("it fits"));
    }
    headers
}

fn sent(tokens: &Tokens, body: &str, basic: Option<&str>) -> Result<(String, HeaderMap), Unfit> {
    let mut headers = headers(basic);
    let body = tokens.outward(&mut headers, body.as_bytes())?;
    Ok((String::from_utf8(body.to_vec()).expect("ASCII"), headers))
}

#[test]
fn the_sign_in_takes_the_place_of_its_placeholders() {
    let real = "grant_type=refresh_token&client_id=client-1&client_secret=real+client%26secret\
                &refresh_token=1%2F%2Freal-refresh&scope=a+b";
    let said = "grant_type=refresh_token&client_id=client-1&client_secret=held&refresh_token=held&scope=a%20b";
    assert_eq!(sent(&parts(), said, None).expect("fit").0, real);
    let said = said.replace("client-1", "held");
    let json = tokens(&[("JSON", JSON), ("REFRESH", "another")]);
    assert_eq!(
        sent(&json, &said, None).expect("fit").0,
        real,
        "the JSON goes before the parts"
    );
    let said = "grant_type=refresh_token&refresh_token=held";
    let (_, headers) = sent(&json, said, Some("held:held")).expect("fit");
    let coded = BASE64_STANDARD.encode("client-1:real+client%26secret");
    assert_eq!(headers[AUTHORIZATION], format!("Basic {coded}"));
    assert!(headers[AUTHORIZATION].is_sensitive());
}

#[test]
fn no_other_sign_in_and_no_other_grant_passes() {
    let other = |body: &str, basic| sent(&parts(), body, basic).map(drop).expect_err("unfit");
    for body in [
        "grant_type=refresh_token&refresh_token=attackers&client_secret=held",
        "grant_type=refresh_token&refresh_token=held&client_secret=attackers",
        "grant_type=refresh_token&client_secret=held",
    ] {
        assert_eq!(other(body, None), Unfit::OtherKey, "{body}");
    }
    let good = "grant_type=refresh_token&refresh_token=held";
    for basic in ["client-1:attackers", "client-1"] {
        assert_eq!(other(good, Some(basic)), Unfit::OtherKey, "{basic}");
    }
    for (body, error) in [
        ("", "unsupported_grant_type"),
        (
            "grant_type=client_credentials&client_secret=held",
            "unsupported_grant_type",
        ),
        (
            "grant_type=refresh_token&refresh_token=held&refresh_token=attackers",
            "invalid_request",
        ),
        (
            "grant_type=refresh_token&refresh_token=held&client_id=a&client_id=b",
            "invalid_request",
        ),
    ] {
        assert!(
            matches!(other(body, None), Unfit::Request(told, _) if told == error),
            "{body}"
        );
    }
    let mut bare = HeaderMap::new();
    let told = parts().outward(&mut bare, good.as_bytes());
    assert!(
        matches!(told, Err(Unfit::Request("invalid_request", _))),
        "JSON is no form"
    );
    let broken = tokens(&[("JSON", "top-secret")]);
    let told = sent(&broken, good, None).map(drop);
    assert!(
        matches!(told, Err(Unfit::Request("invalid_client", _))),
        "{told:?}"
    );
}

#[test]
fn an_answer_holds_placeholders_which_stand_for_its_tokens() {
    let (tokens, form) = (parts(), form());
    let answer = r#"{"access_token":"ya29.real-access","expires_in":3599,"id_token":"ey.real.id","scope":"a b",
        "authed_user":{"access_token":"real-nested"},"echo":"1//real-refresh and real client&secret"}"#;
    let told = tokens.inward(answer.as_bytes(), &form).expect("JSON");
    let text = String::from_utf8(told.to_vec()).expect("JSON");
    assert!(!text.contains("real"), "{text}");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&told["expires_in"], &told["scope"]),
        (&3_599.into(), &"a b".into())
    );
    let placeholder = told["access_token"].as_str().expect("a text");
    assert!(form.is_placeholder(placeholder));
    let asked = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("it fits"));
        tokens
            .offer(&headers, Some("a=b"), &form)
            .map(|offer| offer.value)
    };
    let real = |value: &str| Ok(HeaderValue::from_str(value).expect("it fits"));
    assert_eq!(
        asked(&form.value(placeholder)),
        real("Bearer ya29.real-access")
    );
    let nested = told["authed_user"]["access_token"]
        .as_str()
        .expect("a text");
    assert_eq!(asked(&form.value(nested)), real("Bearer real-nested"));

    let never = form.value(&new_placeholder("held"));
    assert_eq!(
        asked(&never),
        Err(NoToken::Unknown),
        "one of a former daemon"
    );
    for stranger in ["Bearer ya29.attackers", "Basic YTpi", "Bearer held"] {
        assert_eq!(asked(stranger), Err(NoToken::OtherKey), "{stranger}");
    }
    let none = HeaderMap::new();
    let told = |query| tokens.offer(&none, query, &form).map(|offer| offer.value);
    assert_eq!(told(None), Err(NoToken::Unknown));
    assert_eq!(
        told(Some("x=1&access%5Ftoken=attackers")),
        Err(NoToken::OtherKey)
    );
    let shown = tokens
        .redactions()
        .redact("ya29.real-access, real-nested")
        .into_owned();
    assert!(!shown.contains("real"), "{shown}");
    assert!(tokens.inward(b"access_token=real", &form).is_none());
}

#[test]
fn a_new_refresh_token_is_used_from_then_on_and_old_access_tokens_are_forgotten() {
    let (tokens, form) = (parts(), form());
    let mut first = None;
    for round in 0..=ISSUED_MAX {
        let answer = serde_json::json!({"access_token": format!("real-{round}"), "refresh_token": format!("next-{round}")});
        let told = tokens
            .inward(answer.to_string().as_bytes(), &form)
            .expect("JSON");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!(told["refresh_token"], "held");
        first = first.or_else(|| told["access_token"].as_str().map(str::to_owned));
    }
    let (body, _) =
        sent(&tokens, "grant_type=refresh_token&refresh_token=held", None).expect("fit");
    assert_eq!(
        body,
        format!("grant_type=refresh_token&refresh_token=next-{ISSUED_MAX}")
    );
    let mut headers = HeaderMap::new();
    let value = form.value(&first.expect("one was given"));
    headers.insert(AUTHORIZATION, value.parse().expect("it fits"));
    assert_eq!(
        tokens.offer(&headers, None, &form).map(drop),
        Err(NoToken::Unknown)
    );
}

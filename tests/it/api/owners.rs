//! What belongs to whom: names, credentials and lists of several owners behind one administrator.

use serde_json::{Value, json};

use super::{Answer, Fixture};
use crate::harness::{Database, on_both_databases};

on_both_databases! {
    each_owner_has_names_of_its_own,
    an_instance_gets_credentials_of_its_owner_only,
    an_owner_that_cannot_be_one_is_refused_everywhere,
}

async fn create(api: &Fixture, body: &Value) -> Answer {
    api.call("POST", "/api/v1/mcps", &body.to_string()).await
}

/// The member of that name, of each item.
fn each(page: &Answer, member: &str) -> Vec<String> {
    let page = page.json();
    let items = page["items"].as_array().expect("items");
    let texts = items.iter().map(|item| item[member].as_str());
    texts.map(|text| text.expect("a text").to_owned()).collect()
}

async fn each_owner_has_names_of_its_own(database: Database) {
    let api = Fixture::new(database).await;
    for (owner, slug) in [("ada", "ada.one"), ("bob", "bob.one")] {
        let body = json!({"template": "demo", "name": "one", "owner": owner});
        let made = create(&api, &body).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let shown = made.json();
        let told = [&shown["owner"], &shown["name"], &shown["slug"]];
        assert_eq!(told, [owner, "one", slug]);
        let url = shown["path_url"].as_str().expect("a URL");
        assert!(url.ends_with(&format!("/i/{slug}/mcp")), "{url}");
        create(&api, &body).await.problem(409, "name-taken");
    }
    // Nobody's name is taken for another's: not for reading, and not for deleting.
    for method in ["GET", "DELETE"] {
        let nobody = api.call(method, "/api/v1/mcps/one", "").await;
        let detail = nobody.problem(404, "not-found")["detail"].to_string();
        assert!(
            detail.contains("other owners have ada.one, bob.one"),
            "{detail}"
        );
    }
    let own = create(&api, &json!({"template": "demo", "name": "one"})).await;
    assert_eq!(own.json()["slug"], "one", "{}", own.text);
    for (path, owner) in [("one", "admin"), ("admin.one", "admin"), ("bob.one", "bob")] {
        let got = api.call("GET", &format!("/api/v1/mcps/{path}"), "").await;
        assert_eq!(got.json()["owner"], owner, "{}", got.text);
    }
    let renamed = api
        .call("PATCH", "/api/v1/mcps/ada.one", r#"{"name": "two"}"#)
        .await
        .json();
    assert_eq!(renamed["slug"], "ada.two", "{renamed:#}");
    let gone = api.call("GET", "/api/v1/mcps/ada.one", "").await;
    gone.problem(404, "not-found");
    let list = api.call("GET", "/api/v1/mcps?owner=ada", "").await;
    assert_eq!(each(&list, "slug"), ["ada.two"]);
    let list = api.call("GET", "/api/v1/mcps", "").await;
    assert_eq!(each(&list, "slug"), ["ada.two", "bob.one", "one"]);
}

async fn an_instance_gets_credentials_of_its_owner_only(database: Database) {
    let api = Fixture::new(database).await;
    for (owner, value) in [("ada", "ghp_a"), ("bob", "ghp_b")] {
        let body = json!({"name": "gh", "value": value, "owner": owner}).to_string();
        let stored = api.call("POST", "/api/v1/credentials", &body).await;
        assert_eq!(stored.status, 201, "{}", stored.text);
    }
    let bound = |owner: Option<&str>| {
        let mut body = json!({"template": "github", "name": "mine",
            "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "gh"}});
        if let Some(owner) = owner {
            body["owner"] = json!(owner);
        }
        body
    };
    for (owner, sentence) in [
        (None, "you have no credential gh"),
        (Some("eve"), "eve has no credential gh"),
    ] {
        let refused = create(&api, &bound(owner)).await;
        let problem = refused.problem(422, "validation-failed");
        let message = problem["violations"][0]["message"].as_str();
        assert!(
            message.is_some_and(|said| said.contains(sentence)),
            "{problem:#}"
        );
    }
    let made = create(&api, &bound(Some("ada"))).await;
    assert_eq!(made.status, 201, "{}", made.text);

    // What ada's instance wants says nothing of bob's credential, and uses only hers.
    let path = "/api/v1/credentials/gh";
    let odd = |owner: &str| json!({"value": "hunter2", "owner": owner}).to_string();
    let stored = api.call("PUT", path, &odd("bob")).await;
    assert_eq!(stored.status, 200, "{}", stored.text);
    let refused = api.call("PUT", path, &odd("ada")).await;
    refused.problem(422, "validation-failed");
    let used = api.call("DELETE", &format!("{path}?owner=ada"), "").await;
    used.problem(409, "credential-in-use");
    let deleted = api.call("DELETE", &format!("{path}?owner=bob"), "").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text);
    let own = api.call("DELETE", path, "").await;
    own.problem(404, "not-found");
    let left = api.call("GET", "/api/v1/credentials", "").await;
    assert_eq!(each(&left, "owner"), ["ada"]);
    let none = api.call("GET", "/api/v1/credentials?owner=bob", "").await;
    assert!(each(&none, "name").is_empty(), "{}", none.text);
}

async fn an_owner_that_cannot_be_one_is_refused_everywhere(database: Database) {
    let api = Fixture::new(database).await;
    let owner = "Ada.Lovelace";
    let with = |mut body: Value| {
        body["owner"] = json!(owner);
        body.to_string()
    };
    for (path, body) in [
        ("/api/v1/mcps", json!({"template": "demo"})),
        ("/api/v1/credentials", json!({"name": "x", "value": "y"})),
        ("/api/v1/templates/github/check", json!({})),
        ("/api/v1/imports", json!({"text": "{}"})),
    ] {
        let refused = api.call("POST", path, &with(body)).await;
        let problem = refused.problem(422, "validation-failed");
        assert_eq!(problem["violations"][0]["pointer"], "/owner", "{problem:#}");
    }
    let path = format!("/api/v1/credentials/x?owner={owner}");
    let refused = api.call("DELETE", &path, "").await;
    let problem = refused.problem(400, "invalid-query");
    assert_eq!(
        problem["violations"][0]["parameter"], "owner",
        "{problem:#}"
    );
}

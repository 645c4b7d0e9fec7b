//! Instances, credentials, templates, tasks and ports through the router, with children that are only played.

use serde_json::{Value, json};

use super::{Answer, Fixture};
use crate::harness::{Database, on_both_databases};

on_both_databases! {
    the_token_is_shown_once_and_both_prefixes_show_the_same,
    bad_requests_make_nothing,
    a_name_is_taken_once,
    a_missing_program_is_a_conflict_with_the_way_out,
    exhausted_ports_are_507_with_range_and_count,
    lists_are_filtered_and_paged,
    a_list_in_short_tells_the_same_and_less,
    a_verb_in_the_wrong_state_says_what_is_possible,
    credentials_are_never_read_back,
    a_credential_in_use_is_deleted_only_by_force,
    a_value_unlike_what_its_users_want_is_stored_only_by_force,
    templates_show_what_a_form_needs,
    a_task_runs_on_demand,
}

async fn create(api: &Fixture, body: &Value) -> Answer {
    api.call("POST", "/api/v1/mcps", &body.to_string()).await
}

async fn the_token_is_shown_once_and_both_prefixes_show_the_same(database: Database) {
    let api = Fixture::new(database).await;
    let made = create(
        &api,
        &json!({"template": "demo", "name": "one", "labels": {"a": "b"}}),
    )
    .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let shown = made.json();
    let token = shown["access_token"].as_str().expect("a token");
    assert!(token.starts_with("mmcp_"));
    assert!(
        shown["connect_url"]
            .as_str()
            .expect("a url")
            .contains(token)
    );
    let id = shown["id"].as_str().expect("an id");
    assert_eq!(
        made.headers["location"],
        format!("/api/v1/mcps/{id}").as_str()
    );
    for path in [
        format!("/api/v1/mcps/{id}"),
        "/api/v1/mcps/one".into(),
        "/api/mcps/one".into(),
    ] {
        let answer = api.call("GET", &path, "").await;
        let got = answer.json();
        assert_eq!((&got["id"], &got["name"]), (&shown["id"], &shown["name"]));
        assert_eq!(got["labels"], json!({"a": "b"}));
        assert!(!answer.text.contains(token), "{}", answer.text);
        assert!(got.get("access_token").is_none());
    }
    let ports = api.call("GET", "/api/v1/ports", "").await.json();
    assert_eq!(ports["leased"][0]["instance"], shown["id"]);
}

async fn bad_requests_make_nothing(database: Database) {
    let api = Fixture::new(database).await;
    for (body, status, code, pointer) in [
        (
            json!({"template": "nothing"}),
            422,
            "validation-failed",
            "/template",
        ),
        (
            json!({"template": "demo", "ttl": 0}),
            422,
            "validation-failed",
            "/ttl",
        ),
        (
            json!({"template": "demo", "ttl": -5}),
            422,
            "validation-failed",
            "/ttl",
        ),
        (
            json!({"template": "demo", "ttl": "10x"}),
            422,
            "validation-failed",
            "/ttl",
        ),
        (
            json!({"template": "demo", "ttl": "520w"}),
            422,
            "validation-failed",
            "/ttl",
        ),
        (
            json!({"template": "demo", "name": "Bad_Slug"}),
            422,
            "validation-failed",
            "/name",
        ),
        (
            json!({"template": "github"}),
            422,
            "validation-failed",
            "/credentials/GITHUB_PERSONAL_ACCESS_TOKEN",
        ),
    ] {
        let answer = create(&api, &body).await;
        let problem = answer.problem(status, code);
        assert_eq!(problem["violations"][0]["pointer"], pointer, "{problem}");
    }
    let unknown =
        json!({"template": "github", "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "no-such"}});
    create(&api, &unknown)
        .await
        .problem(422, "validation-failed");
    assert_eq!(
        api.call("GET", "/api/v1/mcps", "").await.json()["items"],
        json!([])
    );
    assert_eq!(
        api.call("GET", "/api/v1/ports", "").await.json()["leased"],
        json!([])
    );
}

async fn a_name_is_taken_once(database: Database) {
    let api = Fixture::new(database).await;
    let body = json!({"template": "demo", "name": "one"});
    assert_eq!(create(&api, &body).await.status, 201);
    create(&api, &body).await.problem(409, "name-taken");
    assert_eq!(
        api.call("GET", "/api/v1/mcps", "").await.json()["items"]
            .as_array()
            .expect("items")
            .len(),
        1
    );
    assert_eq!(api.call("DELETE", "/api/v1/mcps/one", "").await.status, 204);
    api.call("GET", "/api/v1/mcps/one", "")
        .await
        .problem(404, "not-found");
    assert_eq!(create(&api, &body).await.status, 201);
}

async fn a_missing_program_is_a_conflict_with_the_way_out(database: Database) {
    let api = Fixture::with(database, |config| {
        config.runtime.search_path = vec!["/nonexistent".into()]
    })
    .await;
    let template = api.call("GET", "/api/v1/templates/time", "").await.json();
    assert_eq!(template["available"], false);
    let problem = create(&api, &json!({"template": "time"}))
        .await
        .problem(409, "template-unavailable");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("pip install"),
        "{problem}"
    );
}

async fn exhausted_ports_are_507_with_range_and_count(database: Database) {
    let api = Fixture::with(database, |config| {
        config.runtime.port_max = config.runtime.port_min
    })
    .await;
    assert_eq!(create(&api, &json!({"template": "demo"})).await.status, 201);
    let problem = create(&api, &json!({"template": "demo"}))
        .await
        .problem(507, "ports-exhausted");
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("1 ") && detail.contains("leased"),
        "{detail}"
    );
}

async fn lists_are_filtered_and_paged(database: Database) {
    let api = Fixture::new(database).await;
    for name in ["a", "b", "c"] {
        assert_eq!(
            create(&api, &json!({"template": "demo", "name": name}))
                .await
                .status,
            201
        );
    }
    let first = api.call("GET", "/api/v1/mcps?limit=2", "").await.json();
    assert_eq!(first["items"].as_array().expect("items").len(), 2);
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let path = format!("/api/v1/mcps?limit=2&cursor={cursor}");
    let second = api.call("GET", &path, "").await.json();
    assert_eq!(second["items"][0]["name"], "c");
    assert!(second["next_cursor"].is_null());
    let none = api
        .call("GET", "/api/v1/mcps?template=git", "")
        .await
        .json();
    assert_eq!(none["items"], json!([]));
}

async fn a_verb_in_the_wrong_state_says_what_is_possible(database: Database) {
    let api = Fixture::new(database).await;
    create(
        &api,
        &json!({"template": "demo", "name": "one", "ttl": "1h"}),
    )
    .await;
    let problem = api
        .call("POST", "/api/v1/mcps/one/restore", "")
        .await
        .problem(409, "wrong-state");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("restore"),
        "{problem}"
    );
    let bad = api
        .call("POST", "/api/v1/mcps/one/extend", "{\"ttl\": \"10x\"}")
        .await;
    assert_eq!(
        bad.problem(422, "validation-failed")["violations"][0]["pointer"],
        "/ttl"
    );
    let extended = api
        .call("POST", "/api/v1/mcps/one/extend", "{\"ttl\": \"2h\"}")
        .await;
    assert_eq!(extended.status, 200, "{}", extended.text);
    assert_eq!(
        api.call("POST", "/api/v1/mcps/one/extend", "").await.status,
        200
    );
    let rotated = api
        .call(
            "POST",
            "/api/v1/mcps/one/access-token",
            "{\"overlap\": \"5m\"}",
        )
        .await;
    assert!(
        rotated.json()["access_token"]
            .as_str()
            .expect("a token")
            .starts_with("mmcp_")
    );
    let long = api
        .call(
            "POST",
            "/api/v1/mcps/one/access-token",
            "{\"overlap\": \"30d\"}",
        )
        .await;
    long.problem(422, "validation-failed");
    let patched = api
        .call("PATCH", "/api/v1/mcps/one", "{\"name\": \"two\"}")
        .await;
    assert_eq!(patched.json()["name"], "two", "{}", patched.text);
    assert_eq!(
        api.call("POST", "/api/v1/mcps/two/stop", "").await.status,
        200
    );
}

async fn credentials_are_never_read_back(database: Database) {
    let api = Fixture::new(database).await;
    let put = api
        .call(
            "POST",
            "/api/v1/credentials",
            r#"{"name": "gh", "value": "hunter2"}"#,
        )
        .await;
    assert_eq!(put.status, 201, "{}", put.text);
    let again = api
        .call("PUT", "/api/v1/credentials/gh", r#"{"value": "hunter3"}"#)
        .await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["created_at"], put.json()["created_at"]);
    let other = api
        .call(
            "PUT",
            "/api/v1/credentials/gh",
            r#"{"name": "x", "value": "hunter3"}"#,
        )
        .await;
    other.problem(422, "validation-failed");
    for name in ["b", "a"] {
        let body = format!("{{\"name\": \"{name}\", \"value\": \"hunter2\"}}");
        api.call("POST", "/api/credentials", &body).await;
    }
    let first = api.call("GET", "/api/v1/credentials?limit=2", "").await;
    let names = |page: &Value| {
        let items = page["items"].as_array().expect("items").clone();
        items
            .iter()
            .map(|one| one["name"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&first.json()), ["a", "b"]);
    let cursor = first.json()["next_cursor"]
        .as_str()
        .expect("a cursor")
        .to_owned();
    let second = api
        .call("GET", &format!("/api/v1/credentials?cursor={cursor}"), "")
        .await;
    assert_eq!(names(&second.json()), ["gh"]);
    for answer in [put, again, first, second] {
        assert!(!answer.text.contains("hunter"), "{}", answer.text);
    }
    assert_eq!(
        api.call("DELETE", "/api/v1/credentials/gh", "")
            .await
            .status,
        204
    );
}

async fn a_list_in_short_tells_the_same_and_less(database: Database) {
    let api = Fixture::new(database).await;
    for name in ["one", "two"] {
        let made = create(&api, &json!({"template": "demo", "name": name})).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    let page = async |query: &str| {
        let answer = api.call("GET", &format!("/api/v1/mcps?{query}"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let first = page("view=summary&limit=1").await;
    let cursor = first["next_cursor"].as_str().expect("there is another");
    let second = page(&format!("view=summary&cursor={cursor}")).await;
    assert_eq!(second["next_cursor"], Value::Null);
    for (short, name) in [(&first["items"][0], "one"), (&second["items"][0], "two")] {
        assert_eq!(short["name"], name, "{short}");
        let whole = api.call("GET", &format!("/api/v1/mcps/{name}"), "").await;
        let whole = whole.json();
        // Times and numbers may have moved between the two.
        for key in ["id", "slug", "template", "port", "access_url", "created_at"] {
            assert_eq!(short[key], whole[key], "{key}");
        }
        assert!(short["status"].is_string(), "{short}");
        assert!(whole["isolation"].is_object(), "{whole}");
        assert!(short.get("isolation").is_none(), "{short}");
    }
    let strange = api.call("GET", "/api/v1/mcps?view=brief", "").await;
    let problem = strange.problem(400, "invalid-query");
    let message = problem["violations"][0]["message"].as_str();
    assert_eq!(message, Some("view must be full or summary"));
}

async fn a_credential_in_use_is_deleted_only_by_force(database: Database) {
    let api = Fixture::new(database).await;
    let body = r#"{"name": "gh", "value": "ghp_x"}"#;
    api.call("POST", "/api/v1/credentials", body).await;
    let path = "/api/v1/credentials/gh";
    for name in ["one", "two"] {
        let bound = json!({"GITHUB_PERSONAL_ACCESS_TOKEN": "gh"});
        let body = json!({"template": "github", "name": name, "credentials": bound});
        let made = create(&api, &body).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let refused = api.call("DELETE", path, "").await;
        let detail = refused.problem(409, "credential-in-use")["detail"].to_string();
        assert!(detail.contains(name), "{detail}");
    }
    let strange = api
        .call("DELETE", &format!("{path}?force=perhaps"), "")
        .await;
    strange.problem(400, "invalid-query");
    let refused = api.call("DELETE", &format!("{path}?force=false"), "").await;
    refused.problem(409, "credential-in-use");
    let forced = api.call("DELETE", &format!("{path}?force=true"), "").await;
    assert_eq!(forced.status, 204, "{}", forced.text);
    let again = api.call("DELETE", path, "").await;
    again.problem(404, "not-found");
}

async fn a_value_unlike_what_its_users_want_is_stored_only_by_force(database: Database) {
    let api = Fixture::new(database).await;
    let path = "/api/v1/credentials/gh";
    // Nobody wants anything of it yet.
    for value in ["whatever", "ghp_x"] {
        let body = json!({"value": value}).to_string();
        let stored = api.call("PUT", path, &body).await;
        assert!(stored.status.is_success(), "{}", stored.text);
    }
    let bound = json!({"GITHUB_PERSONAL_ACCESS_TOKEN": "gh"});
    let body = json!({"template": "github", "name": "mine", "credentials": bound});
    assert_eq!(create(&api, &body).await.status, 201);
    let wrong = r#"{"name": "gh", "value": "hunter2"}"#;
    for (method, path) in [("PUT", path), ("POST", "/api/v1/credentials")] {
        let refused = api.call(method, path, wrong).await;
        let problem = refused.problem(422, "validation-failed");
        let violation = &problem["violations"][0];
        assert_eq!(violation["pointer"], "/value", "{problem:#}");
        let message = violation["message"].as_str().expect("a sentence");
        assert!(message.contains("instance mine"), "{message}");
        assert!(!refused.text.contains("hunter2"), "{}", refused.text);
        let forced = api.call(method, &format!("{path}?force=true"), wrong).await;
        assert_eq!(forced.status, 200, "{}", forced.text);
    }
    let strange = format!("{path}?force=perhaps");
    let strange = api.call("PUT", &strange, wrong).await;
    strange.problem(400, "invalid-query");
    let other = api.call(
        "PUT",
        "/api/v1/credentials/other",
        r#"{"value": "hunter2"}"#,
    );
    assert_eq!(other.await.status, 201, "nobody is bound to it");
    let right = api.call("PUT", path, r#"{"value": "ghp_y"}"#).await;
    assert_eq!(right.status, 200, "{}", right.text);
}

async fn templates_show_what_a_form_needs(database: Database) {
    let api = Fixture::new(database).await;
    let page = api.call("GET", "/api/v1/templates", "").await.json();
    let github = page["items"]
        .as_array()
        .expect("items")
        .iter()
        .find(|one| one["name"] == "github")
        .expect("github");
    assert_eq!(
        github["credentials"][0]["name"],
        "GITHUB_PERSONAL_ACCESS_TOKEN"
    );
    assert_eq!(github["settings_schema"]["type"], "object");
}

async fn a_task_runs_on_demand(database: Database) {
    let api = Fixture::new(database).await;
    let answer = api.call("POST", "/api/v1/tasks/count-sheep/run", "").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let page = api.call("GET", "/api/v1/tasks", "").await.json();
        if page["items"][0]["last_result"] == json!({"sheep": 3}) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{page}");
        tokio::task::yield_now().await;
    }
}

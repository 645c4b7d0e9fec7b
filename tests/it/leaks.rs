//! Where a secret must not be found.

use std::{fs, path::Path};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::Server;

/// Asserts that no secret is in any answer about the instance, in the metrics, in `serve`'s log, in the arguments of a
/// process, in a file, or in the database.
pub async fn assert_nowhere(server: &Server, instance: &Value, secrets: &[String]) {
    let mut places = vec![("serve's log".to_owned(), server.log())];
    let path = format!("/mcps/{}", instance["id"].as_str().expect("it has an id"));
    for path in [
        path.clone(),
        format!("{path}/logs"),
        format!("{path}/events"),
        format!("{path}/stats"),
        "/mcps".to_owned(),
        "/credentials".to_owned(),
        "/tasks".to_owned(),
    ] {
        let (status, answer) = server.call(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {answer}");
        places.push((path, answer.to_string()));
    }
    let processes = server.processes();
    assert!(processes.len() >= 3, "serve, keeper, server: {processes:?}");
    for process in processes {
        places.push((format!("process {}", process.pid), process.command));
    }
    let data = server.config().runtime.instance_dir.parent();
    files_under(data.expect("it lies in the data folder"), &mut places);
    if server.config().database.url.starts_with("postgres") {
        rows_of(&server.config().database.url, &mut places).await;
    }
    assert!(
        places
            .iter()
            .any(|(name, _)| name.ends_with("minimcp.db") || name == "credentials")
    );
    for (place, content) in places {
        for secret in secrets {
            assert!(!content.contains(secret.as_str()), "{secret} is in {place}");
        }
    }
}

fn files_under(folder: &Path, places: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the folder is ours") {
        let entry = entry.expect("the folder is ours");
        let kind = entry.file_type().expect("it is there");
        if kind.is_dir() {
            files_under(&entry.path(), places);
        } else if kind.is_file() {
            let content = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&content).into_owned();
            places.push((entry.path().display().to_string(), text));
        }
    }
}

/// Every row of every table as text.
async fn rows_of(url: &str, places: &mut Vec<(String, String)>) {
    let mut connection = PgConnection::connect(url).await.expect("it answers");
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(&mut connection)
            .await
            .expect("tables have names");
    for table in tables {
        let query = AssertSqlSafe(format!("SELECT x::text FROM \"{table}\" AS x"));
        let rows: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut connection)
            .await
            .expect("a row is a text");
        places.push((table, rows.join("\n")));
    }
}

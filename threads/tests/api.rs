//! Tests of what only the threads service has, over a real socket.

use service::testing::App;

#[test]
fn threads_are_found_by_id_and_by_user() {
    let one = r#"{"id":1,"title":"One","createdBy":4}"#;
    let two = r#"{"title":"Two","createdBy":3,"id":2,"tags":["a"]}"#;
    let nine = r#"{"id":9,"title":"Nine","createdBy":4}"#;
    let app = App::spawn(threads::collection(), [nine, one, two]);
    for (path, expected) in [
        ("/api/threads", format!("[{one},{two},{nine}]")),
        ("/api/threads/2", two.to_owned()),
        ("/api/threads/by-user/4", format!("[{one},{nine}]")),
        ("/api/threads/by-user/4/", format!("[{one},{nine}]")),
        ("/api/threads/by-user/5", "[]".to_owned()),
    ] {
        let answer = app.get(path);
        assert_eq!((answer.status, answer.body), (200, expected), "{path}");
    }
    for (path, status) in [("/api/threads/3", 404), ("/api/threads/by-user/x", 400), ("/api/posts", 404)] {
        assert_eq!(app.get(path).status, status, "{path}");
    }
}

//! A plan that several processes share, over PostgreSQL: its parts are killed, run twice, and at once.

use std::time::Duration;

use ingest_testkit::postgres::{Options, Postgres};

use super::postgres::{assert_whole, grow, project};
use super::{chance, counts, kills, run_and_kill};

const PLAN: [&str; 8] = ["plan", "--source", "db", "--slices", "4", "-o", "plan.json", "--json"];
const FINISH: [&str; 6] = ["run", "--plan", "plan.json", "--finish", "--progress", "off"];

fn part(index: u64) -> [String; 7] {
    ["run", "--plan", "plan.json", "--slice", &index.to_string(), "--progress", "off"].map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_plan_survive_kills_at_random_moments() {
    // Alone: a transaction that another test holds open would hold rows back here.
    let Some(server) = Postgres::private(&Options::default()) else { return };
    let database = server.database().await;
    let project = project(&server, &database).await;
    let mut seed = 11;
    for round in 0..kills().div_ceil(25) {
        grow(&database, 20_000).await;
        let planned = project.json(&PLAN[..7]);
        assert_eq!(planned["parts"], 4);
        for _ in 0..25 {
            let arguments = part(chance(&mut seed, 4));
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run_and_kill(&project, &arguments, Duration::from_millis(chance(&mut seed, 250)));
        }
        // Two processes at the same part: one of them may find that the other has done it.
        let both: Vec<_> = (0..2)
            .map(|_| project.command(&["run", "--plan", "plan.json", "--slice", "1", "--progress", "off"]).spawn())
            .collect();
        for child in both {
            let code = child.expect("the program starts").wait().expect("a child of ours").code();
            assert!(matches!(code, Some(0 | 6)), "round {round}: {code:?}");
        }
        let _ = project.run(&["maintain"]);
        for index in [3, 0, 2, 1, 2] {
            let arguments = part(index);
            project.good(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        }
        if round == 0
            && let Some(found) = counts(&project, "db/public_copied", "id").await
        {
            assert!(found.is_empty(), "nothing shows before the plan is closed");
        }
        run_and_kill(&project, &FINISH, Duration::from_millis(chance(&mut seed, 100)));
        project.good(&FINISH);
        project.good(&FINISH);
        assert_whole(&project, &database, &format!("round {round}")).await;
    }
    // Runs go on where the plan ended.
    grow(&database, 100).await;
    project.good(&["run", "--source", "db", "--progress", "off"]);
    assert_whole(&project, &database, "a run afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_does_not_fit_is_refused_and_missing_slices_are_named() {
    let Some(server) = Postgres::private(&Options::default()) else { return };
    let database = server.database().await;
    let project = project(&server, &database).await;
    grow(&database, 1_000).await;
    project.good(&PLAN);
    let text = std::fs::read_to_string(project.folder.path().join("plan.json")).expect("a plan");
    assert!(!text.contains(server.password()), "a plan carries no secret");
    let said = |arguments: &[&str], code: i32| {
        let output = project.run(arguments);
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:#?}");
        output.stderr
    };
    assert!(said(&["run", "--plan", "plan.json"], 2).contains("--slice"));
    assert!(said(&["run", "--plan", "plan.json", "--slice", "4"], 2).contains("0 to 3"));
    assert!(said(&["run", "--plan", "none.json", "--slice", "0"], 2).contains("none.json"));
    project.good(&["run", "--plan", "plan.json", "--slice", "2"]);
    let missing = said(&FINISH, 4);
    assert!(missing.contains("are missing: 0, 1, 3"), "{missing}");
    // The index may come from the scheduler.
    for index in ["0", "1", "3"] {
        let status = project.command(&["run", "--plan", "plan.json"]).env("JOB_COMPLETION_INDEX", index).status();
        assert!(status.expect("the program starts").success());
    }
    database.client.batch_execute("ALTER TABLE copied ADD COLUMN more int").await.expect("valid SQL");
    assert!(said(&["run", "--plan", "plan.json", "--slice", "0"], 2).contains("more: Int32"));
    database.client.batch_execute("ALTER TABLE copied DROP COLUMN more").await.expect("valid SQL");
    project.good(&FINISH);
    assert_whole(&project, &database, "finished").await;
    let other = std::fs::read_to_string(project.folder.path().join("ingest.yaml")).expect("a file");
    let other = other.replace("lake: {", "lake: {url: ./other, ");
    std::fs::write(project.folder.path().join("ingest.yaml"), other).expect("written");
    assert!(said(&["run", "--plan", "plan.json", "--slice", "0"], 2).contains("another lake"));
}

//! `ingest init`.

use super::Project;

#[test]
fn a_new_project_runs_as_it_is() {
    let project = Project::empty();
    let made = project.good(&["init", "shop"]);
    assert_eq!(made.stdout, "wrote shop/ingest.yaml\n");
    let project = project.set("INGEST_CONFIG", "shop/ingest.yaml");
    project.good(&["check", "--source", "files"]);
    let run = project.good(&["run", "--source", "files"]);
    assert!(run.stdout.starts_with("files.example: 2 rows read, 2 written"), "{run:?}");
    assert!(project.folder.path().join("shop/lake/bronze/files/example").is_dir());
}

#[test]
fn what_is_there_is_not_overwritten() {
    let project = Project::shop();
    let before = std::fs::read_to_string(project.folder.path().join("ingest.yaml")).expect("there");
    assert_eq!(project.run(&["init"]).code, Some(2));
    assert_eq!(std::fs::read_to_string(project.folder.path().join("ingest.yaml")).expect("there"), before);
}

#[test]
fn a_source_of_every_connector_is_added_with_its_fields_explained() {
    for connector in ["files", "postgres", "stripe"] {
        let project = Project::new(
            "# mine\nlake: {url: ./lake}\nsources:\n  # also mine\n  one:\n    connector: files\n    path: .\n",
        );
        project.good(&["init", "--connector", connector]);
        project.good(&["init", "--connector", connector]);
        let text = std::fs::read_to_string(project.folder.path().join("ingest.yaml")).expect("there");
        assert!(text.contains("# mine") && text.contains("# also mine"));
        assert!(
            text.contains(&format!("\n  {connector}:\n")) && text.contains(&format!("\n  {connector}_2:\n")),
            "{text}"
        );
        let fields = project.json(&["connectors", connector]);
        for (name, property) in fields["properties"].as_object().expect("fields") {
            let line = text.lines().any(|line| line.trim_start_matches([' ', '#']).starts_with(&format!("{name}:")));
            assert!(line, "{connector}.{name} is missing:\n{text}");
            assert!(property["description"].is_string(), "{connector}.{name} has no description");
        }
        // Every line that is not a comment can be read.
        project.good(&["config", "show"]);
    }
}

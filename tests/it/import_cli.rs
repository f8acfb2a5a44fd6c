//! What `sidle users import` says about rows.

use crate::cli::{Operator, Ran, signed_in};
use crate::support::{ADMIN_PASSWORD, TestServer, cheap_hash};

/// A file with rows of every kind of verdict, and what the command says of it.
async fn imported(options: &[&str]) -> Ran {
    let (server, operator): (TestServer, Operator) = signed_in().await;
    server.tenant("north").await;
    let file = operator.home.path().join("users.csv");
    let hash = cheap_hash(ADMIN_PASSWORD);
    let rows = format!(
        "id,email,username,password_hash,is_active,created_at,tenant,role\n\
         1,ann@north.example,ann,{hash},true,2024-05-31,north,user\n\
         2,bob@north.example,bob,,false,2024-05-31,north,user\n\
         3,cleo@north.example,cleo,{hash},true,31/05/2024,north,user\n\
         4,dan@north.example,dan,{hash},maybe,2024-05-31,north,user\n\
         5,eve@north.example,eve,{hash},true,2024-05-31,Haus am See,user\n\
         6,fay@north.example,fay,{hash},true,2024-05-31,Haus am See,user\n\
         7,gus@north.example,gus,{hash},true,2024-05-31,hafen,user\n\
         8,hal@north.example,hal,{hash},true,2024-05-31,north,boss\n\
         9,ivy@north.example,ivy,{hash},true,2024-05-31,,user\n\
         10,joe@north.example\n"
    );
    std::fs::write(&file, rows).unwrap();
    let command = [&["users", "import", file.to_str().unwrap()], options].concat();
    let ran = operator.run_with(&command, &[("SIDLE_PASSWORD", ADMIN_PASSWORD)], "").await;
    assert_eq!(ran.code, 3, "rows were refused: {ran:?}");
    ran
}

#[tokio::test]
async fn a_refused_row_says_whose_it_is_which_field_and_why() {
    let ran = imported(&[]).await;
    for expected in [
        "line 4 (id 3, cleo@north.example): refused, unreadable: created_at is not a time such as 2024-05-31T12:00:00Z.",
        "line 5 (id 4, dan@north.example): refused, unreadable: is_active is none of true, false, yes, no, 1 and 0.",
        "line 11: refused, unreadable: the row has 2 fields, the first line 8.",
        "line 10 (id 9, ivy@north.example): refused, tenant_missing (tenant). Name the tenant in the row, or one for all \
         such rows: --default-tenant SLUG.",
    ] {
        assert!(ran.out.contains(expected), "{expected}\n{}", ran.out);
    }
    assert!(!ran.out.contains("bob@north.example"), "remarks are counted unless they are asked for: {}", ran.out);
}

#[tokio::test]
async fn an_unknown_value_is_named_once_with_the_option_that_maps_it() {
    let ran = imported(&[]).await;
    let (_, table) = ran.out.split_once("MAP IT WITH").expect("a table of unknown values");
    let lines: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split("  ").map(str::trim).collect()).collect();
    let lines: Vec<Vec<&str>> =
        lines.into_iter().map(|cells| cells.into_iter().filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0], ["tenant", "Haus am See", "2", "--tenant 'Haus am See=SLUG'"]);
    assert!(lines.contains(&vec!["tenant", "hafen", "1", "--tenant hafen=SLUG"]), "{table}");
    assert!(lines.contains(&vec!["role", "boss", "1", "--role boss=ROLE"]), "{table}");
    assert!(
        ran.out
            .contains("unknown_tenant (tenant): \"hafen\". Create the tenant, or map the value: --tenant hafen=SLUG.")
    );

    // The options that were named are what helps.
    let mapped = imported(&["--tenant", "Haus am See=north", "--tenant", "hafen=north", "--role", "boss=user"]).await;
    assert!(!mapped.out.contains("MAP IT WITH") && !mapped.out.contains("unknown_"), "{}", mapped.out);
}

#[tokio::test]
async fn remarks_are_listed_row_by_row_where_they_are_asked_for() {
    let ran = imported(&["--remarks"]).await;
    for expected in [
        "line 3 (id 2, bob@north.example): imported, no_password (password_hash). ",
        "line 3 (id 2, bob@north.example): imported, inactive (is_active). ",
        "line 2 (id 1, ann@north.example): imported, low_cost (password_hash). ",
    ] {
        assert!(ran.out.contains(expected), "{expected}\n{}", ran.out);
    }
}

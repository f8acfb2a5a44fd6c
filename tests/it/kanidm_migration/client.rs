//! How our client understands the answers of each Kanidm release.

use sidle::config::Config;
use sidle::kanidm::{Kanidm, KanidmError, NewPerson};
use sidle::metrics::Metrics;
use sidle_dev::random_word;
use uuid::Uuid;

use crate::support::{self, Setup};

async fn connect() -> (sidle_dev::kanidm::Kanidm, Kanidm) {
    let dev = support::kanidm().await;
    let access = dev.prepare("https://app.example/callback").await.unwrap();
    let settings = Setup::new().await.with_kanidm(&dev, &access).environment().clone();
    let config = Config::load(None, settings).unwrap();
    let client = Kanidm::new(&config.kanidm, sidle::context::Clock::system(), Metrics::new()).unwrap().unwrap();
    (dev, client)
}

fn person(name: &str) -> NewPerson {
    NewPerson {
        uuid: Uuid::new_v4(),
        name: name.to_owned(),
        display_name: format!("Person {name}"),
        mail: format!("{name}@example.com"),
    }
}

#[tokio::test]
async fn refusals_are_understood() {
    let (_dev, kanidm) = connect().await;
    let ann = person(&format!("a{}", random_word(12)));
    kanidm.create_persons(std::slice::from_ref(&ann)).await.unwrap();
    let create = async |change: &dyn Fn(&mut NewPerson)| {
        let mut other = person(&format!("b{}", random_word(12)));
        change(&mut other);
        // With a valid entry beside it, which must not be created alone.
        let innocent = person(&format!("c{}", random_word(12)));
        let error = kanidm.create_persons(&[innocent.clone(), other]).await.unwrap_err();
        assert_eq!(kanidm.person(innocent.uuid).await.unwrap(), None, "a batch is all or nothing");
        error
    };
    assert_eq!(create(&|other| other.uuid = ann.uuid).await, KanidmError::UuidTaken);
    assert!(matches!(create(&|other| other.name = ann.name.clone()).await, KanidmError::Duplicate(_)));
    assert!(matches!(create(&|other| other.mail = ann.mail.clone()).await, KanidmError::Duplicate(_)));
    assert_eq!(
        create(&|other| other.name = "Not A Name".to_owned()).await,
        KanidmError::Invalid(Some("name".to_owned()))
    );
    assert_eq!(create(&|other| other.mail = "nobody".to_owned()).await, KanidmError::Invalid(Some("mail".to_owned())));
}

#[tokio::test]
async fn persons_are_read_back_as_they_were_made() {
    let (dev, kanidm) = connect().await;
    let prefix = format!("p{}", random_word(10));
    let persons: Vec<NewPerson> = (0..70).map(|n| person(&format!("{prefix}{n}"))).collect();
    kanidm.create_persons(&persons).await.unwrap();
    let mut uuids: Vec<Uuid> = persons.iter().map(|person| person.uuid).collect();
    uuids.push(Uuid::new_v4());
    let found = kanidm.persons(&uuids).await.unwrap();
    assert_eq!(found.len(), 70);
    for intended in &persons {
        let person = &found[&intended.uuid];
        assert_eq!((&person.name, &person.display_name), (&intended.name, &intended.display_name));
        assert_eq!(person.mail, [intended.mail.as_str()]);
        assert!(!person.has_credential);
    }
    let names = [persons[3].name.as_str(), "nobody-has-this"];
    let mails = [persons[4].mail.as_str(), "nobody@nowhere.example"];
    let taken = kanidm.taken(&names, &mails).await.unwrap();
    assert_eq!(taken.names.get(names[0]), Some(&persons[3].uuid));
    assert_eq!(taken.mails.get(mails[0]), Some(&persons[4].uuid));
    assert_eq!((taken.names.len(), taken.mails.len()), (1, 1));

    // A password that its owner sets shows in both queries.
    let owner = persons[5].uuid;
    assert!(!kanidm.has_credential(owner).await.unwrap());
    let link = dev.reset_link(&owner.to_string()).await.unwrap();
    dev.use_reset_link(&link, &format!("{}-{}", random_word(12), random_word(12))).await.unwrap();
    assert!(kanidm.person(owner).await.unwrap().unwrap().has_credential);
    assert!(kanidm.has_credential(owner).await.unwrap());
    assert_eq!(kanidm.has_credential(Uuid::new_v4()).await, Err(KanidmError::NotFound));
}

#[tokio::test]
async fn members_join_groups_by_uuid() {
    let (dev, kanidm) = connect().await;
    let (group, name) = (Uuid::new_v4(), format!("g{}", random_word(12)));
    kanidm.create_group(group, &name, "made by a test").await.unwrap();
    assert!(matches!(kanidm.create_group(Uuid::new_v4(), &name, "").await, Err(KanidmError::Duplicate(_))));
    let other = format!("g{}", random_word(12));
    assert_eq!(kanidm.create_group(group, &other, "").await, Err(KanidmError::UuidTaken));
    let persons = [person(&format!("m{}", random_word(12))), person(&format!("n{}", random_word(12)))];
    kanidm.create_persons(&persons).await.unwrap();
    let uuids = persons.each_ref().map(|person| person.uuid);
    kanidm.add_members(group, &uuids).await.unwrap();
    kanidm.add_members(group, &uuids).await.unwrap();
    assert_eq!(dev.members(&name).await.unwrap().len(), 2);
    assert_eq!(kanidm.add_members(group, &[Uuid::new_v4()]).await, Err(KanidmError::ReferenceMissing));
    assert_eq!(kanidm.add_members(Uuid::new_v4(), &uuids).await, Err(KanidmError::NotFound));
    let read = kanidm.group(&group.to_string()).await.unwrap().unwrap();
    assert_eq!((read.uuid, read.name, read.members.len()), (group, name, 2));
    assert_eq!(kanidm.group(&other).await.unwrap(), None);
}

//! What templates are known to need.

use minimcp::{domain::id::TemplateName, store::TemplateNeed};

use super::contract;

fn need(template: &str, memory_bytes: u64) -> TemplateNeed {
    TemplateNeed {
        template: TemplateName::new(template).expect("a name"),
        memory_bytes,
        noted_at: 7_000,
    }
}

contract! {
    async fn what_a_template_needs_is_replaced_and_forgotten(db: &Database) {
        assert_eq!(db.store.template_needs().await, Ok(vec![]));
        db.store.save_template_needs(&[]).await.expect("nothing to do");
        let (large, small) = (need("large", 3 << 40), need("small", 1));
        db.store.save_template_needs(&[small.clone(), large.clone()]).await.expect("kept");
        assert_eq!(db.store.template_needs().await, Ok(vec![large, small.clone()]));
        let less = need("large", 2 << 30);
        db.store.save_template_needs(std::slice::from_ref(&less)).await.expect("replaced");
        assert_eq!(db.store.template_needs().await, Ok(vec![less.clone(), small.clone()]));
        db.store.forget_template_need(&less.template).await.expect("forgotten");
        db.store.forget_template_need(&less.template).await.expect("it is no error twice");
        assert_eq!(db.store.template_needs().await, Ok(vec![small]));
        db.store.save_template_needs(&[need("small", u64::MAX)]).await.expect("as much as fits");
        let kept = db.store.template_needs().await.expect("read");
        assert_eq!(kept[0].memory_bytes, i64::MAX.cast_unsigned());
    }
}

-- A publication that leaves out a kind of change is refused, since the target would differ
-- [setup --publication partly]
-- [refused by setup: publication "partly" does not publish every kind of change]
-- [schema]
create table t(id int primary key);
-- [source]
create publication partly for table t with (publish = 'insert');

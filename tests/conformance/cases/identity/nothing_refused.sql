-- Replica identity NOTHING would make UPDATE and DELETE fail on the source once published: setup refuses
-- [refused by setup: public.t has no usable replica identity (REPLICA IDENTITY NOTHING)]
-- [schema]
create table t(id int primary key);
alter table t replica identity nothing;

-- What an upload's columns leave unknown ({"features": {name: fields}, "rules": {id: fields}}); null: not looked at.
ALTER TABLE uploads ADD COLUMN lacking jsonb;

"""The only room that imports mlflow: what people see of a study, and where its results are shared from."""

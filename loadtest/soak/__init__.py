"""A long run under churn: does the gateway hold, after half an hour, more than it held after three minutes?"""

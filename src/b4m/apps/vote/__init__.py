"""The paper's user studies (Sec. 5.4): make one, let people vote in a browser, report what they said."""
